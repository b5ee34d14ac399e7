"""The engine's copies of KV: a session that goes on elsewhere gives the very bits it would have given here."""

from threading import Event

import numpy as np
import pytest

from shoal_agent.core.effects import ExportKv, ImportKv
from shoal_agent.core.events import KvExported, KvImported, StageFailed, StageFinished
from shoal_agent.shell.kv import KvCache
from shoal_agent.shell.stage import Stage
from tests.support.engines import Host, a_session, cluster

TINY = "tiny"
SMOLLM2 = "smollm2-135m-instruct"
PROMPT = [7, 100, 31, 250, 18, 9, 77, 310, 4, 4, 19]
FEW = [5, 33, 210, 8, 8, 61]
ALL = range(6)


async def answering(split, session, position, tokens):
    """Logits after each of ``tokens``, which are fed one by one."""
    return [await split.feed(session, [token], position + at) for at, token in enumerate(tokens)]


def same(one, other):
    return len(one) == len(other) and all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("stages", [1, 2])
async def test_a_session_goes_on_elsewhere_bit_by_bit(tiny_store, stages):
    here, there = await cluster(tiny_store, TINY, 3), await cluster(tiny_store, TINY, stages)
    old, new = here.open(64), there.open(64)
    await here.feed(old, PROMPT, 0)
    before = await answering(here, old, len(PROMPT), FEW)
    moved = len(PROMPT) + len(FEW)
    for position in range(0, moved, 8):
        await here.hand_over(old, there, new, position, min(8, moved - position))
    assert same(await answering(there, new, moved, FEW[::-1]), await answering(here, old, moved, FEW[::-1]))
    assert len({logits.tobytes() for logits in before}) == len(FEW)
    here.end(old)
    there.end(new)
    for host in (*here.hosts, *there.hosts):
        await host.close()


async def test_positions_that_are_run_again_leave_the_same_bits(tiny_store):
    split = await cluster(tiny_store, TINY, 2)
    session = split.open(64)
    await split.feed(session, PROMPT, 0)
    first = await answering(split, session, len(PROMPT), FEW)
    rows = await split.hosts[1].rows(session, range(3, 6), 0, len(PROMPT) + len(FEW), stage=1)
    for back in (1, 3, len(FEW)):
        begin = len(FEW) - back
        assert same(await answering(split, session, len(PROMPT) + begin, FEW[begin:]), first[begin:])
    assert await split.hosts[1].rows(session, range(3, 6), 0, len(PROMPT) + len(FEW), stage=1) == rows
    split.end(session)
    for host in split.hosts:
        await host.close()


@pytest.fixture
async def ran(host, whole):
    """A session that has run the prompt."""
    await host.load(whole)
    session = a_session()
    host.engine.open_stage(session, 0, whole, 512)
    await host.output(session, np.array([PROMPT], np.int64), 0, len(PROMPT))
    return session


async def test_rows_of_another_size_are_refused_and_nothing_is_written(host, ran):
    rows = await host.rows(ran, ALL, 0, len(PROMPT))
    for wrong in (rows[:-1], rows + b"x", b""):
        reason = await host.take(ran, ALL, 0, len(PROMPT), wrong)
        assert reason == f"{len(wrong)} bytes came, {len(rows)} are {len(PROMPT)} positions of 6 blocks"
    assert await host.rows(ran, ALL, 0, len(PROMPT)) == rows
    host.engine.close_stage(ran, 0)


async def test_blocks_without_kv_have_no_rows(host, ran):
    assert await host.rows(ran, range(1), 0, 5) == b""
    assert await host.take(ran, range(5, 6), 0, 5, b"") == ""
    host.engine.close_stage(ran, 0)


async def test_a_copy_of_nothing_is_answered(host, whole, ran):
    fresh = a_session()
    host.engine.open_stage(fresh, 0, whole, 16)
    for session, why in ((fresh, "no KV yet"), (a_session(), "no such session")):
        host.engine.export_kv(ExportKv(session, 0, 0, 5, 0, 4))
        answer = await host.answer()
        assert (type(answer), answer.rows, answer.byte_count) == (KvExported, None, 0)
        assert why in answer.reason
    assert "no such session" in await host.take(a_session(), ALL, 0, 1, b"x")
    assert len(host.tensors) == 0
    for session in (fresh, ran):
        host.engine.close_stage(session, 0)


async def test_what_is_asked_of_a_session_is_answered_when_it_closes(host, ran, big_run):
    rows = await host.rows(ran, ALL, 0, 8)
    for _ in range(2):
        host.bring(ran, ALL, 0, 8, rows)
    host.engine.export_kv(ExportKv(ran, 0, 0, 5, 0, 8))
    host.start(ran, big_run, 8, 400)
    host.engine.close_stage(ran, 0)
    assert host.engine.kv_bytes > 0
    answers = [await host.answer() for _ in range(4)]
    assert [type(answer) for answer in answers] == [KvImported, KvImported, KvExported, StageFailed]
    assert {answer.reason for answer in answers} == {"the session was closed"}
    assert host.engine.kv_bytes == len(host.tensors) == 0
    assert host.answers.empty()


async def test_closing_the_engine_answers_every_copy(host, ran):
    rows = await host.rows(ran, ALL, 0, 8)
    host.bring(ran, ALL, 0, 8, rows)
    host.engine.export_kv(ExportKv(ran, 0, 0, 5, 0, 8))
    await host.close()
    assert [type(host.answers.get_nowait()) for _ in range(2)] == [KvImported, KvExported]


async def test_a_run_follows_the_imports_it_was_asked_behind(tiny_store, whole, monkeypatch):
    """With a lane for each of them, and imports that take long enough for whoever would not wait."""
    host = Host(tiny_store, lanes=4)
    await host.load(whole)
    one, other = a_session(), a_session()
    for session in (one, other):
        host.engine.open_stage(session, 0, whole, 64)
    await host.output(one, np.array([PROMPT], np.int64), 0, len(PROMPT))
    expected = await host.output(one, bytes(8), len(PROMPT), 1)
    parts = [await host.rows(one, ALL, at, 4) for at in (0, 4, 8)]
    overtaken, write = Event(), KvCache.write

    def slowly(cache, blocks, position, count, rows):
        overtaken.wait(0.1)
        write(cache, blocks, position, count, rows)
        done.append(position)

    def run(stage, *arguments, **options):
        overtaken.set()
        done.append("run")
        return ran(stage, *arguments, **options)

    done, ran = [], Stage.run
    monkeypatch.setattr(KvCache, "write", slowly)
    monkeypatch.setattr(Stage, "run", run)
    for number, part in enumerate(parts):
        host.bring(other, ALL, 4 * number, 4, part)
    host.start(other, bytes(8), len(PROMPT), 1)
    answers = [await host.answer() for _ in range(4)]
    assert done == [0, 4, 8, "run"]
    (finished,) = [answer for answer in answers if isinstance(answer, StageFinished)]
    assert np.array_equal(host.tensors.take(finished.output), expected)
    for session in (one, other):
        host.engine.close_stage(session, 0)
    await host.close()


async def test_copies_the_node_must_not_ask_for(host, ran, big_run):
    bounds = ((0, 6, 0, 1), (3, 2, 0, 1), (0, 5, 0, 0), (0, 5, 500, 13), (0, 5, -1, 1))
    for first, last, position, count in bounds:
        with pytest.raises(AssertionError):
            host.engine.export_kv(ExportKv(ran, 0, first, last, position, count))
    host.start(ran, big_run, 11, 400)
    with pytest.raises(AssertionError, match="takes no rows"):
        host.engine.import_kv(ImportKv(ran, 0, 0, 5, 0, 1, b""))
    host.tensors.release((await host.answer()).output)
    host.engine.close_stage(ran, 0)


# --- the real model -------------------------------------------------------------------------------------------------


@pytest.mark.model
async def test_the_real_model_goes_on_elsewhere_bit_by_bit(smollm2_store):
    """From three stages to two, after a prompt in two chunks and some tokens."""
    here, there = await cluster(smollm2_store, SMOLLM2, 3), await cluster(smollm2_store, SMOLLM2, 2)
    old, new = here.open(256), there.open(256)
    prompt = list(range(1000, 1096))
    await here.feed(old, prompt[:64], 0, last=False)
    await here.feed(old, prompt[64:], 64)
    before = await answering(here, old, 96, FEW)
    for position in range(0, 102, 34):
        await here.hand_over(old, there, new, position, 34)
    assert same(await answering(here, old, 98, FEW[2:]), before[2:]), "run again"
    expected = await answering(here, old, 102, range(2000, 2012))
    assert same(await answering(there, new, 102, range(2000, 2012)), expected)
    assert same(await answering(there, new, 98, FEW[2:]), before[2:]), "and there, from imported rows"
    here.end(old)
    there.end(new)
    for host in (*here.hosts, *there.hosts):
        await host.close()
