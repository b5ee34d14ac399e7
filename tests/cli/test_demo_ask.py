import time

import pytest

from shoal_agent.cli.demo_ask import Answer, Question, ask, session_client
from shoal_agent.errors import FailedError
from tests.support.api_server import KEY, ApiServer, serving

QUESTION = Question("tiny", "Why?", 16, 3)


@pytest.fixture
def server():
    with serving(ApiServer(token_ids=[[7], [8, 9], []])) as running:
        yield running


async def asked(server, key=KEY):
    async with session_client(server.url, key) as client:
        return await ask(client, QUESTION, lambda _answer, _text: None)


async def test_an_answer_is_what_its_client_saw(server):
    begun, shown = time.monotonic(), []
    async with session_client(server.url, KEY) as client:
        answer = await ask(client, QUESTION, lambda answer, text: shown.append((len(answer.token_ids), text)))
    assert (answer.text, answer.token_ids) == ("Hello!", [7, 8, 9])
    assert shown == [(1, "Hel"), (3, "lo"), (3, "!"), (3, "")]
    assert len(answer.token_times) == 3
    assert begun <= answer.begun <= answer.token_times[0] <= answer.token_times[-1] <= time.monotonic()
    assert answer.session == "0a0b"


async def test_it_asks_greedily_for_a_stream_with_ids(server):
    await asked(server)
    (body,) = server.asked
    assert body["messages"] == [{"role": "user", "content": "Why?"}]
    wanted = {"model": "tiny", "max_tokens": 16, "temperature": 0, "seed": 3, "stream": True, "return_token_ids": True}
    assert {name: body[name] for name in wanted} == wanted


async def test_an_error_in_the_stream_is_the_answers_end(server):
    server.extra_lines = ['data: {"error": {"message": "a stage was lost"}}\n\n']
    with pytest.raises(FailedError, match="after 3 tokens: a stage was lost"):
        await asked(server)


async def test_a_stream_without_its_last_word_is_no_answer(server):
    server.last_word = False
    with pytest.raises(FailedError, match="after 3 tokens, without its last word"):
        await asked(server)


async def test_a_refusal_is_told(server):
    with pytest.raises(FailedError, match=r"401.*no such key"):
        await asked(server, key="another")


async def test_nobody_there_is_told(server):
    server.url = "http://127.0.0.1:9"
    with pytest.raises(FailedError, match="after 0 tokens: ConnectError"):
        await asked(server)


def test_times_between_tokens():
    answer = Answer(10.0, token_ids=[1, 2, 3, 4, 5], token_times=[10.5, 10.6, 10.7, 11.2, 11.3])
    assert answer.first_token_s == pytest.approx(0.5)
    assert answer.tokens_per_second == pytest.approx(4 / 0.8)
    assert answer.usual_pause_s == pytest.approx(0.1)
    assert answer.longest_pause_s(since=10.8) == pytest.approx(0.5)  # it began before
    assert answer.longest_pause_s(since=11.2) == pytest.approx(0.1)
    assert answer.longest_pause_s(since=11.3) is None


def test_an_answer_of_no_or_one_token_has_no_times_between():
    for times in ([], [10.5]):
        answer = Answer(10.0, token_ids=[1] * len(times), token_times=times)
        assert answer.tokens_per_second == 0
        assert answer.usual_pause_s == 0
        assert answer.longest_pause_s(since=0.0) is None
    assert Answer(10.0).first_token_s == 0
