from array import array

import pytest

from shoal_agent.core.effects import (
    CallService,
    ExportKv,
    FetchModel,
    ImportKv,
    LoadBlocks,
    OpenStage,
    RunStage,
    SendFrame,
)
from shoal_agent.core.events import (
    BlocksFailed,
    BlocksLoaded,
    ModelAvailable,
    ModelMissing,
    ServiceFailed,
    StageFailed,
    StageFinished,
)
from shoal_agent.core.facts import CallId, StageSpan
from shoal_agent.sim.devices import Device
from shoal_agent.sim.settings import TOY
from shoal_agent.sim.toy import MODEL, NAMES, toy_blocks, toy_facts
from shoal_protocol.headers import Ping
from shoal_protocol.ids import Digest, Epoch, NodeId, SessionId

SESSION = SessionId(bytes(16))
ANNA = NodeId("a" * 32)
WHOLE = StageSpan(TOY, Epoch(0), MODEL, 0, 7)
FRONT = StageSpan(TOY, Epoch(0), MODEL, 0, 3)


def opened(span=WHOLE, speed=1.0):
    device = Device(toy_facts(), speed)
    device.loaded.append(span)
    device.open(OpenStage(SESSION, 0, span, 16))
    return device


def run_of(*tokens, position=0, want_logits=True):
    return RunStage(SESSION, 0, position, len(tokens), array("q", tokens).tobytes(), want_logits)


def finish(device, effect):
    device.begin(effect)
    return device.finish(effect, 0.1)


def test_a_head_yields_the_last_position():
    device, memory = opened(), {}
    done = finish(device, run_of(5, 6))
    expected = [toy_blocks(token, 0, 7, memory) for token in (5, 6)]
    assert isinstance(done, StageFinished)
    assert array("q", device.take(done.output)).tolist() == expected[-1:]


def test_a_stage_in_front_yields_every_position():
    done = finish(device := opened(FRONT), run_of(5, 6, want_logits=False))
    assert len(array("q", device.take(done.output))) == 2


def test_a_head_without_logits_yields_nothing():
    assert finish(opened(), run_of(5, want_logits=False)).output is None


def test_a_run_of_a_closed_session_was_terminated():
    device = opened()
    device.begin(run_of(5))
    device.close((SESSION, 0))
    assert isinstance(device.finish(run_of(5), 0.1), StageFailed)
    assert device.leftovers() == []


def test_a_slower_device_takes_longer_and_more_blocks_too():
    fast, slow = opened(), opened(speed=0.1)
    assert slow.run_s(run_of(5)) == pytest.approx(10 * fast.run_s(run_of(5)))
    assert opened(FRONT).run_s(run_of(5)) == pytest.approx(fast.run_s(run_of(5)) / 2)
    assert slow.load_s(WHOLE) > fast.load_s(WHOLE)


def test_prefill_is_priced_by_the_token():
    device = opened()
    assert device.run_s(run_of(*range(100))) == pytest.approx(device.run_s(run_of(*range(50))) * 2)


def test_it_finds_a_contract_broken():
    device = opened()
    with pytest.raises(AssertionError, match="once per stage"):
        device.open(OpenStage(SESSION, 0, WHOLE, 16))
    with pytest.raises(AssertionError, match="loaded blocks"):
        device.open(OpenStage(SESSION, 1, FRONT, 16))
    device.begin(run_of(5))
    with pytest.raises(AssertionError, match="one run"):
        device.begin(run_of(6, position=1))
    with pytest.raises(AssertionError, match="was open"):
        device.close((SESSION, 1))


def test_a_tensor_is_taken_once():
    device = opened()
    handle = device.put(b"x")
    assert device.leftovers() == ["1 tensors", "1 stages"]
    assert device.take(handle) == b"x"
    with pytest.raises(KeyError):
        device.take(handle)


def test_a_refused_call_is_answered():
    effect = CallService(CallId(1), NAMES[0], "nonsense", b"", None)
    assert isinstance(opened().call(effect), ServiceFailed)


def load(device, effect):
    device.loading.append(effect.span)
    return device.load(effect)


def test_what_is_here_is_not_fetched():
    device = Device(toy_facts(), 1.0)
    assert device.fetch_s(WHOLE) == device.learn_s() == 0.0
    assert load(device, LoadBlocks(WHOLE)) == BlocksLoaded(WHOLE, 1)


def test_what_is_not_here_takes_time_by_its_bytes_and_is_kept():
    device = Device(toy_facts(), 1.0, knows_model=False)
    assert device.learn(FetchModel(MODEL, (ANNA,))) == ModelAvailable(device.facts)
    assert device.learn_s() > 0
    assert device.fetch_s(WHOLE) == pytest.approx(2 * device.fetch_s(FRONT))
    assert load(device, LoadBlocks(FRONT, (ANNA,))) == BlocksLoaded(FRONT, 1)
    assert device.fetch_s(FRONT) == 0.0
    assert device.fetch_s(WHOLE) > 0


def test_what_was_fetched_ahead_need_not_be_fetched_again():
    device = Device(toy_facts(), 1.0, knows_model=False)
    device.cache(FRONT, (ANNA,))
    assert device.fetch_s(FRONT) == 0.0
    assert not device.loaded


def test_without_a_source_nothing_is_fetched():
    device = Device(toy_facts(), 1.0, knows_model=False)
    device.cache(FRONT, ())
    assert device.fetch_s(FRONT) > 0
    assert isinstance(device.learn(FetchModel(MODEL, ())), ModelMissing)
    failed = load(device, LoadBlocks(WHOLE))
    assert isinstance(failed, BlocksFailed)
    assert "block 0" in failed.reason
    assert not device.loaded


def test_another_model_is_nobodys():
    assert isinstance(Device(toy_facts(), 1.0).learn(FetchModel(Digest(b"?" * 32), (ANNA,))), ModelMissing)


ROWS = {"first_block": 0, "last_block": 7, "position": 0, "token_count": 2}


def exported(device, **rows):
    effect = ExportKv(SESSION, 0, **{**ROWS, **rows})
    return device.exported(effect, device.export(effect))


def imported(device, rows, **wanted):
    effect = ImportKv(SESSION, 0, **{**ROWS, **wanted}, rows=rows)
    return device.imported(effect, device.write(effect))


def test_rows_of_one_device_serve_another():
    one, other = opened(), opened()
    finish(one, run_of(5, 6))
    rows = exported(one)
    assert rows.byte_count == 2 * 8 * 64
    assert imported(other, other.put(one.take(rows.rows))).reason == ""
    done = [device.take(finish(device, run_of(7, position=2)).output) for device in (one, other)]
    assert done[0] == done[1]
    assert other.leftovers() == ["1 stages"]


def test_rows_that_do_not_fit_are_refused():
    assert "bytes came" in imported(opened(), b"x").reason


def test_copies_of_a_closed_session_are_answered_with_a_reason():
    device = opened()
    finish(device, run_of(5, 6, want_logits=False))
    effect = ExportKv(SESSION, 0, **ROWS)
    rows = device.export(effect)
    device.close((SESSION, 0))
    assert device.leftovers() == ["1 copies"]
    assert device.exported(effect, rows).rows is None
    assert exported(device).reason == imported(device, b"").reason == "the session is closed"
    assert device.leftovers() == []


def test_it_finds_kv_counted_on_that_is_not_there():
    device = opened()
    finish(device, run_of(5, want_logits=False))
    with pytest.raises(AssertionError, match="is there"):
        device.export(ExportKv(SESSION, 0, **ROWS))
    with pytest.raises(AssertionError, match="where KV is"):
        device.begin(run_of(6, position=2))
    device.begin(run_of(6, position=1))
    with pytest.raises(AssertionError, match="takes no rows"):
        device.write(ImportKv(SESSION, 0, **ROWS, rows=b""))


def test_a_frame_may_leave_its_tensor_with_the_node():
    device = opened()
    handle = device.put(b"x")
    assert device.sent(SendFrame(ANNA, Ping(1), handle, keep=True)) == b"x"
    assert device.sent(SendFrame(ANNA, Ping(1), handle)) == b"x"
    assert device.leftovers() == ["1 stages"]
    assert device.sent(SendFrame(ANNA, Ping(1), b"y", keep=True)) == b"y"
    assert device.sent(SendFrame(ANNA, Ping(1), None)) is None
