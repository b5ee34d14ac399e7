import asyncio
import weakref
from dataclasses import replace
from threading import current_thread

import numpy as np
import pytest

from shoal_agent.core.events import StageFailed, StageFinished
from shoal_agent.shell import kv
from shoal_protocol.tensors import payload_of
from shoal_protocol.widths import ActivationWidth, narrow, widen
from tests.support.chain import Chain
from tests.support.engines import Host, a_session, await_all, cluster, spans
from tests.support.unsplit import Unsplit

TINY = "tiny"
PROMPT = [7, 100, 31, 250, 18, 9, 77, 310, 4, 4, 19]


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
async def test_every_split_gives_the_tokens_of_the_unsplit_model(tiny_store, stages):
    expected = Unsplit(tiny_store, TINY).greedy(PROMPT, 64, stop_at_eos=False)
    assert len(set(expected)) > 8, "a model that repeats itself proves little"
    split = await cluster(tiny_store, TINY, stages)
    assert await split.greedy(PROMPT, 64) == expected
    for host in split.hosts:
        await host.close()


@pytest.mark.parametrize(
    "left_out", [(1, 3), pytest.param((2, 2), marks=pytest.mark.long), pytest.param((4, 4), marks=pytest.mark.long)]
)
async def test_without_some_blocks_every_split_gives_the_tokens_of_the_graph_without_them(tiny_store, left_out):
    """Stages of one block too: of those nothing may be left."""
    expected = Unsplit(tiny_store, TINY, range(left_out[0], left_out[1] + 1)).greedy(PROMPT, 24, stop_at_eos=False)
    assert expected != Unsplit(tiny_store, TINY).greedy(PROMPT, 24, stop_at_eos=False)
    for stages in (1, 3, 6):
        split = await cluster(tiny_store, TINY, stages)
        assert await split.greedy(PROMPT, 24, left_out) == expected
        for host in split.hosts:
            await host.close()


async def test_rows_of_blocks_that_are_run_are_all_there_is_and_go_on_elsewhere(tiny_store):
    old, new = await cluster(tiny_store, TINY, 2), await cluster(tiny_store, TINY, 3)
    expected = await old.greedy(PROMPT, 8, (2, 3))
    source, target = old.open(32, (2, 3)), new.open(32, (2, 3))
    first = int((await old.feed(source, PROMPT, 0)).argmax())
    assert sum(host.engine.kv_bytes for host in old.hosts) == 32 * 2 * 256, "two layers of four"
    await old.hand_over(source, new, target, 0, len(PROMPT))
    fed, answer = first, [first]
    while len(answer) < 8:
        fed = int((await new.feed(target, [fed], len(PROMPT) + len(answer) - 1)).argmax())
        answer.append(fed)
    assert answer == expected
    old.end(source)
    new.end(target)
    for host in (*old.hosts, *new.hosts):
        await host.close()


@pytest.mark.parametrize("takes", ActivationWidth)
@pytest.mark.parametrize("gives", [ActivationWidth.F32, ActivationWidth.I8X32])
async def test_a_stage_of_which_nothing_is_left_hands_on_what_came_as_wide_as_it_gives(tiny_store, takes, gives):
    host, (_, inner, _) = Host(tiny_store), spans(tiny_store, TINY, 3)
    span = replace(inner, takes=takes, gives=gives)
    await host.load(span)
    session, rows = a_session(), np.random.default_rng(5).normal(size=(1, 3, 64)).astype(np.float32)
    host.engine.open_stage(session, 1, span, 16, (span.first_block, span.last_block))
    came = narrow(rows, takes)
    given = await host.output(session, memoryview(payload_of(came).tobytes()), 0, 3, stage=1)
    assert np.array_equal(given, narrow(widen(payload_of(came), takes, rows.shape), gives))
    assert host.engine.kv_bytes == 0
    host.engine.close_stage(session, 1)
    await host.close()


async def test_a_prompt_in_chunks_equals_the_prompt_at_once(tiny_store):
    split = await cluster(tiny_store, TINY, 2)
    tokens = PROMPT * 9
    chain = Chain(tiny_store, tiny_store.load(TINY))
    expected = chain.feed(tokens)
    for sizes in ([99], [64, 35], [32, 32, 32, 3], [98, 1]):
        session, position = split.open(len(tokens)), 0
        for size in sizes:
            last = position + size == len(tokens)
            logits = await split.feed(session, tokens[position : position + size], position, last=last)
            assert (logits is not None) == last
            position += size
        np.testing.assert_allclose(logits, expected, atol=0.05 * np.abs(expected).max())
        assert logits.argmax() == expected.argmax()
        split.end(session)
    for host in split.hosts:
        await host.close()


async def test_interleaved_sessions_do_not_disturb_each_other(tiny_store):
    split = await cluster(tiny_store, TINY, 2)
    prompts = [PROMPT, PROMPT[::-1]]
    alone = [await split.greedy(prompt, 16) for prompt in prompts]
    opened = [split.open(len(prompt) + 16) for prompt in prompts]
    fed, answers, position = [list(prompt) for prompt in prompts], [[], []], 0
    for _ in range(16):
        width = len(fed[0])
        for at, session in enumerate(opened):
            fed[at] = [int((await split.feed(session, fed[at], position)).argmax())]
            answers[at] += fed[at]
        position += width
    assert answers == alone
    assert alone[0] != alone[1]
    for session in opened:
        split.end(session)
    for host in split.hosts:
        await host.close()


async def test_sessions_of_one_host_queue_and_are_answered_in_order(host, whole):
    await host.load(whole)
    opened = [a_session() for _ in range(5)]
    for session in opened:
        host.engine.open_stage(session, 0, whole, 64)
        host.start(session, np.array([PROMPT], np.int64), 0, len(PROMPT))
    outputs = []
    for session in opened:
        answer = await host.answer()
        assert (type(answer), answer.session) == (StageFinished, session)
        assert answer.took_s > 0
        outputs.append(host.tensors.take(answer.output))
        host.engine.close_stage(session, 0)
    assert all(np.array_equal(output, outputs[0]) for output in outputs)


# --- outputs and inputs ---------------------------------------------------------------------------------------------


async def test_bytes_are_as_good_as_arrays_even_unaligned(host, whole):
    await host.load(whole)
    ids = np.array([PROMPT], np.int64)
    outputs = []
    for data in (ids, ids.tobytes(), memoryview(b"!" + ids.tobytes())[1:]):
        session = a_session()
        host.engine.open_stage(session, 0, whole, 16)
        outputs.append(await host.output(session, data, 0, len(PROMPT)))
        host.engine.close_stage(session, 0)
    assert np.array_equal(outputs[0], outputs[1])
    assert np.array_equal(outputs[0], outputs[2])


async def test_the_head_is_skipped_unless_a_token_is_wanted(host, whole):
    await host.load(whole)
    session = a_session()
    host.engine.open_stage(session, 0, whole, 16)
    answer = await host.run(session, np.array([PROMPT], np.int64), 0, len(PROMPT), last=False)
    assert (type(answer), answer.output, answer.shape) == (StageFinished, None, ())
    host.engine.close_stage(session, 0)


@pytest.mark.parametrize(
    ("data", "why"), [(np.array([[320]]), "vocabulary"), (b"1234567", "came"), (np.zeros((1, 2), np.float32), "came")]
)
async def test_what_a_stage_refuses_fails_the_run_and_not_the_session(host, whole, data, why):
    await host.load(whole)
    session = a_session()
    host.engine.open_stage(session, 0, whole, 16)
    answer = await host.run(session, data, 0, 1)
    assert isinstance(answer, StageFailed)
    assert why in answer.reason
    assert await host.output(session, bytes(8), 0, 1) is not None
    host.engine.close_stage(session, 0)


async def test_a_run_without_a_session_fails_and_gives_its_input_back(host, whole):
    await host.load(whole)
    answer = await host.run(a_session(), np.array([[1]], np.int64), 3, 1)
    assert (type(answer), answer.position, answer.reason) == (StageFailed, 3, "no such session is open here")
    assert len(host.tensors) == 0


async def test_running_past_what_was_opened_is_our_mistake(host, whole):
    await host.load(whole)
    session = a_session()
    host.engine.open_stage(session, 0, whole, 4)
    with pytest.raises(AssertionError, match="fewer positions"):
        host.start(session, bytes(8), 4, 1)
    host.engine.close_stage(session, 0)


# --- closing --------------------------------------------------------------------------------------------------------


@pytest.fixture
def ended_in(monkeypatch):
    """For the KV of every session, once it is gone: the thread in which it went."""
    made, threads = [], []

    class Watched(kv.KvCache):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(weakref.ref(self.of_block(1)[0].array, lambda _: threads.append(current_thread().name)))

    monkeypatch.setattr("shoal_agent.shell.stage.KvCache", Watched)
    return threads


async def test_cancelling_a_run_answers_it_and_frees_the_kv(host, whole, big_run, ended_in):
    await host.load(whole)
    session = a_session()
    host.engine.open_stage(session, 0, whole, 512)
    assert host.engine.kv_bytes == 512 * sum(block.kv_bytes_per_token for block in host.store.load(TINY).blocks)
    host.start(session, big_run, 0, 400)
    host.engine.close_stage(session, 0)
    assert host.engine._ending[session, 0].cancel.is_set
    assert host.engine.kv_bytes > 0, "native code may still write there"
    answer = await host.answer()
    assert (type(answer), answer.reason) == (StageFailed, "the session was closed")
    assert host.engine.kv_bytes == 0
    await_all(host.engine._lanes)
    assert ended_in == ["loader-0", "lane-0"], "the warm-up's, and the session's: unmapping takes milliseconds"


async def test_closing_an_idle_session_frees_its_kv_off_the_loop(host, whole, ended_in):
    await host.load(whole)
    session = a_session()
    host.engine.open_stage(session, 0, whole, 64)
    await host.output(session, bytes(8), 0, 1)
    host.engine.close_stage(session, 0)
    assert host.engine.kv_bytes == 0
    await_all(host.engine._lanes)
    assert ended_in == ["loader-0", "lane-0"]


async def test_a_run_that_ended_before_its_session_closed_is_answered_as_failed_too(host, whole):
    await host.load(whole)
    session = a_session()
    host.engine.open_stage(session, 0, whole, 8)
    host.start(session, bytes(8), 0, 1)
    await_all(host.engine._lanes)  # the run has ended, its answer has not been read
    host.engine.close_stage(session, 0)
    answer = await host.answer()
    assert isinstance(answer, StageFailed)
    assert len(host.tensors) == 0


async def test_a_session_can_come_again_after_its_last_answer(host, whole, big_run):
    await host.load(whole)
    session = a_session()
    for _ in range(3):
        host.engine.open_stage(session, 0, whole, 512)
        host.start(session, big_run, 0, 400)
        host.engine.close_stage(session, 0)
        with pytest.raises(AssertionError, match="last answer"):
            host.engine.open_stage(session, 0, whole, 512)
        await host.answer()
    host.engine.open_stage(session, 0, whole, 512)
    assert await host.output(session, big_run, 0, 400) is not None
    host.engine.close_stage(session, 0)


async def test_closing_the_engine_answers_every_run(host, whole, big_run):
    await host.load(whole)
    opened = [a_session() for _ in range(4)]
    for session in opened:
        host.engine.open_stage(session, 0, whole, 512)
        host.start(session, big_run, 0, 400)
    await host.close()
    answers = [host.answers.get_nowait() for _ in opened]
    assert [answer.session for answer in answers] == opened
    assert {type(answer) for answer in answers} == {StageFailed}


async def test_the_loop_breathes_during_a_run(host, whole, big_run):
    await host.load(whole)
    session = a_session()
    host.engine.open_stage(session, 0, whole, 512)
    loop, gaps = asyncio.get_running_loop(), []
    for _ in range(5):
        host.start(session, big_run, 0, 400)
        answer = asyncio.ensure_future(host.answer())
        while not answer.done():
            before = loop.time()
            await asyncio.sleep(0)
            gaps.append(loop.time() - before)
        host.tensors.release((await answer).output)
    host.engine.close_stage(session, 0)
    assert len(gaps) > 100, "the loop turned while runs were under way"
    assert np.quantile(gaps, 0.99) < 0.02


async def test_a_session_outlives_the_unloading_of_its_span(host, whole):
    await host.load(whole)
    session = a_session()
    host.engine.open_stage(session, 0, whole, 8)
    before = await host.output(session, bytes(8), 0, 1)
    host.blocks.unload(whole)
    assert np.array_equal(await host.output(session, bytes(8), 0, 1), before)
    host.engine.close_stage(session, 0)
    with pytest.raises(AssertionError, match="loaded"):
        host.engine.open_stage(session, 0, whole, 8)
