import asyncio

import pytest
from starlette.requests import Request

from shoal_agent.shell.api import body
from shoal_agent.shell.api.body import read_body
from shoal_agent.shell.api.errors import ApiError
from shoal_agent.shell.api.streaming import ClientGone
from shoal_protocol.limits import API_BODY_BYTES_MAX


class Client:
    """Sends ``messages``, then nothing more."""

    def __init__(self, *messages, headers=()):
        self.messages = list(messages)
        self.taken = 0
        self.scope = {"type": "http", "headers": [(name.encode(), value.encode()) for name, value in headers]}

    async def receive(self):
        if self.taken == len(self.messages):
            await asyncio.Event().wait()
        self.taken += 1
        return self.messages[self.taken - 1]

    async def read(self):
        return await asyncio.wait_for(read_body(Request(self.scope, self.receive)), 5)


def part(data, *, more=True):
    return {"type": "http.request", "body": data, "more_body": more}


async def test_a_body_is_put_together():
    assert await Client(part(b"one "), part(b"two"), part(b"", more=False)).read() == b"one two"


async def test_a_body_of_exactly_the_bound_is_read():
    assert len(await Client(part(b"x" * API_BODY_BYTES_MAX, more=False)).read()) == API_BODY_BYTES_MAX


@pytest.mark.parametrize("length", [API_BODY_BYTES_MAX + 1, 10**30])
async def test_a_body_that_says_it_is_too_large_is_refused_unread(length):
    client = Client(part(b"x"), headers=[("content-length", str(length))])
    with pytest.raises(ApiError) as caught:
        await client.read()
    assert (caught.value.status, client.taken) == (413, 0)
    assert caught.value.headers["Connection"] == "close"


async def test_a_body_that_does_not_say_is_refused_as_soon_as_it_is_too_large():
    client = Client(*[part(b"x" * 1000)] * 2000)
    with pytest.raises(ApiError) as caught:
        await client.read()
    assert caught.value.status == 413
    assert client.taken == API_BODY_BYTES_MAX // 1000 + 1


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(body, "API_BODY_S_MAX", 0.02)
    with pytest.raises(ApiError) as caught:
        await Client(part(b"x")).read()
    assert caught.value.status == 408


async def test_a_client_that_leaves_is_gone():
    with pytest.raises(ClientGone):
        await Client(part(b"x"), {"type": "http.disconnect"}).read()
