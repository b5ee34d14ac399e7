"""The node a client asked is killed in mid-stream; the client comes back to another one and reads the rest.

Four real agents over two mosquittos serve a model in two stages. The client remembers nothing but its request, its
request's id and the id of the last event it had: what it read from all nodes together is what it would have read from
one, every token and letter, once and in order.
"""

import asyncio
import json
import signal
from dataclasses import dataclass, field

import httpx
import pytest
import pytest_asyncio

from tests.support.processes import Agent
from tests.support.repair import tell
from tests.support.survival import PROMPT, SHORT, TOKENS, Survival, minnow_store, surviving

pytestmark = pytest.mark.asyncio(loop_scope="module")

WRITTEN = 60
READ_S_MAX = 30.0
BACK_S_MAX = 20.0
"""Until somebody takes the client back."""


@dataclass
class Reader:
    """A client that knows how to come back."""

    survival: Survival
    name: str
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    last_id: str = ""
    finish: str | None = None
    over: bool = False
    resumable: str = ""
    times: list[float] = field(default_factory=list)
    written: asyncio.Event = field(default_factory=asyncio.Event)
    """There are as many tokens as there shall be before anything happens."""

    def _request(self, agent: Agent) -> tuple[str, dict[str, object], dict[str, str]]:
        body = {"model": self.survival.cluster.model, "prompt": list(PROMPT), "max_tokens": TOKENS, "temperature": 0}
        headers = {"X-Request-Id": self.name} | ({"Last-Event-ID": self.last_id} if self.last_id else {})
        return f"{agent.api}/v1/completions", body | {"stream": True, "return_token_ids": True}, headers

    async def read(self, agent: Agent, count: int = TOKENS + 1) -> int:
        """Read from ``agent`` until there are ``count`` tokens, the end, or the connection breaks; the status."""
        url, body, headers = self._request(agent)
        client = self.survival.cluster.client
        try:
            async with client.stream("POST", url, json=body, headers=headers, timeout=READ_S_MAX) as answer:
                self.resumable = answer.headers.get("x-shoal-resumable", "")
                await self._take(answer, count)
                return answer.status_code
        except httpx.TransportError:
            return 0

    async def _take(self, answer: httpx.Response, count: int) -> None:
        number = ""
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                number = line.removeprefix("id: ")
            if not line.startswith("data: ") or "error" in line:
                continue
            assert number, "every event has its number"
            self.last_id = number
            self.over = line == "data: [DONE]"
            if not self.over:
                self._event(json.loads(line.removeprefix("data: ")))
            if len(self.tokens) >= WRITTEN:
                self.written.set()
            if len(self.tokens) >= count:
                return

    def _event(self, chunk: dict[str, list[dict[str, object]]]) -> None:
        for choice in chunk["choices"]:
            fresh = choice.get("token_ids") or []
            self.tokens += fresh
            self.times += [asyncio.get_running_loop().time()] * len(fresh)
            self.text += choice.get("text") or ""
            self.finish = choice.get("finish_reason") or self.finish

    async def come_back(self, *agents: Agent) -> None:
        """Ask one after the other until one goes on to the end."""
        async with asyncio.timeout(BACK_S_MAX):
            while not self.over:
                for agent in agents:
                    await self.read(agent)
                await asyncio.sleep(0.05)

    def whole(self, what: str) -> None:
        wanted = self.survival.undisturbed[SHORT]
        assert self.tokens == wanted.tokens
        assert (self.text, self.finish, self.over) == (wanted.text, wanted.finish, True)
        gap_s = max(after - before for before, after in zip(self.times, self.times[1:], strict=False))
        tell(f"{what}: {len(self.tokens)} tokens, {1000 * gap_s:.0f} ms the longest gap")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def survival(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    async with surviving(minnow_store(folder), folder, agents=4, stages=2) as made:
        await made.learn(SHORT)
        yield made


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def mended(survival):
    yield
    await survival.mend()


async def outsiders(survival):
    hosts = await survival.hosts()
    return [agent for agent in survival.agents if agent not in hosts]


async def test_the_ingress_is_killed(survival):
    ingress, other = await outsiders(survival)
    reader = Reader(survival, "killed-ingress-0001")
    reading = asyncio.create_task(reader.read(ingress))
    await reader.written.wait()
    ingress.signal(signal.SIGKILL)
    await reading
    assert not reader.over
    assert reader.resumable == "true"
    await reader.come_back(other)
    reader.whole("ingress killed")


async def test_the_connection_breaks_and_the_client_comes_back_to_the_same_node(survival):
    ingress, _ = await outsiders(survival)
    reader = Reader(survival, "broken-connection-0001")
    for count in (WRITTEN, 2 * WRITTEN):
        assert await reader.read(ingress, count) == httpx.codes.OK
        await asyncio.sleep(0.2)
    await reader.come_back(ingress)
    reader.whole("connection broken twice")


async def test_the_client_comes_back_to_another_node_while_the_first_one_lives(survival):
    ingress, other = await outsiders(survival)
    reader = Reader(survival, "another-way-0001")
    assert await reader.read(ingress, WRITTEN) == httpx.codes.OK
    await reader.come_back(other)
    reader.whole("another node asked")


@pytest.mark.long
async def test_a_host_that_is_the_ingress_too_is_killed(survival):
    ingress, *_ = await survival.hosts()
    _, other = await outsiders(survival)
    reader = Reader(survival, "killed-host-0001")
    reading = asyncio.create_task(reader.read(ingress))
    await reader.written.wait()
    ingress.signal(signal.SIGKILL)
    await reading
    await reader.come_back(other)
    reader.whole("host and ingress killed")


@pytest.mark.long
async def test_the_ingress_freezes_and_wakes_when_another_one_has_its_stream(survival):
    ingress, other = await outsiders(survival)
    reader = Reader(survival, "frozen-ingress-0001")
    assert await reader.read(ingress, WRITTEN) == httpx.codes.OK
    ingress.signal(signal.SIGSTOP)
    assert await reader.read(other, 2 * WRITTEN) == httpx.codes.OK
    ingress.signal(signal.SIGCONT)
    await reader.come_back(other)
    reader.whole("ingress frozen")
