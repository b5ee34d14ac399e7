"""Rows of KV that come in. Rows are made of nothing: what they hold is the engine's matter."""

from dataclasses import replace

import pytest

from shoal_agent.core import shadows
from shoal_agent.core.holdings import DEADLINE_GRACE_S
from shoal_agent.core.shadows import ENDED_S
from shoal_agent.core.tenure import Holding
from shoal_protocol.headers import CloseReason, CloseSession, KvKept, KvRows, RefusalCode, SessionOpened
from shoal_protocol.ids import DeploymentId, Epoch, SessionId
from shoal_protocol.limits import PREFILL_CHUNK_TOKENS, SESSIONS_MAX, TOKENS_MAX
from tests.support.stand import OPEN, PROMPT, SESSION, STEP, Stand, ids
from tests.support.world import TOY, World

KV = 4 * 64
ROWS = KvRows(TOY, Epoch(0), SESSION, 0, 0, 3, 0, 8, 100, 30_000, World(1).names[0])
"""From the first host, for the stage it serves, to the last one, its standby; the ingress is the one played by hand."""


@pytest.fixture
def stand():
    made = Stand(backed=True)
    yield made
    made.close()
    made.world.check_idle()


def bring(stand, header=ROWS, data=None, *, by=None, to=None):
    blocks = max(1, header.last_block - header.first_block + 1)
    payload = bytes(header.token_count * 64 * blocks) if data is None else data
    stand.say(header, payload, to=to or stand.last, by=by or stand.first)


def kept(stand, peer=None):
    """What the feeder heard: positions, or codes."""
    heard = stand.heard(KvKept, peer or stand.first)
    return [answer.position if answer.refusal is None else answer.refusal for answer in heard]


# --- growing ----------------------------------------------------------------------------------------------------------


def test_the_first_rows_open_a_shadow(stand):
    bring(stand)
    assert (stand.shadows(stand.last), stand.sessions(stand.last)) == (1, 0)
    assert stand.cell(stand.last).node.snapshot(stand.world.now).kv_bytes == 100 * KV
    assert stand.tenure(stand.last).sessions == 1
    assert kept(stand) == [], "nothing is kept before it is written"
    stand.world.run(0.1)
    assert kept(stand) == [8]
    bring(stand, replace(ROWS, position=8, token_count=3))
    stand.world.run(0.1)
    assert kept(stand) == [8, 11]
    assert stand.cell(stand.last).counts["kv_bytes", "kept"] == 11 * KV


@pytest.mark.parametrize("position", [3, 9, 92])
def test_rows_that_do_not_go_on_where_they_end_are_not_written(stand, position):
    bring(stand)
    stand.world.run(0.1)
    bring(stand, replace(ROWS, position=position))
    stand.world.run(0.1)
    assert kept(stand) == [8, 8]
    assert len(stand.imports(stand.last)) == 1
    assert not stand.cell(stand.last).tensors


def test_a_second_frame_for_the_same_blocks_waits_for_the_first(stand):
    bring(stand)
    bring(stand)
    assert kept(stand) == [0]
    stand.world.run(0.1)
    assert kept(stand) == [0, 8]
    assert len(stand.imports(stand.last)) == 1


def test_parts_of_a_stage_may_come_from_several_and_the_least_counts(stand):
    bring(stand, replace(ROWS, last_block=1))
    bring(stand, replace(ROWS, first_block=2, token_count=5))
    stand.world.run(0.1)
    assert sorted(kept(stand)) == [5, 8]
    stand.say(replace(OPEN, attempt=1), to=stand.last)
    (opened,) = stand.heard(SessionOpened)
    assert (opened.position, opened.retained_from) == (5, 5)


def test_a_shadow_is_taken_up_where_it_ends(stand):
    bring(stand)
    stand.say(replace(OPEN, attempt=1), to=stand.last)
    assert not stand.heard(SessionOpened), "rows are being written"
    stand.world.run(0.1)
    assert stand.heard(SessionOpened) == [SessionOpened(SESSION, 0, 1, 8, 8)]
    assert kept(stand) == [8]
    assert (stand.shadows(stand.last), stand.sessions(stand.last)) == (0, 1)
    bring(stand, replace(ROWS, position=8))
    assert kept(stand) == [8, RefusalCode.OLD_ATTEMPT]


def test_a_shadow_of_a_shorter_session_is_no_use(stand):
    bring(stand, replace(ROWS, tokens_max=50))
    stand.world.run(0.1)
    stand.say(replace(OPEN, attempt=1), to=stand.last)
    assert stand.heard(SessionOpened) == [SessionOpened(SESSION, 0, 1, 0, 0)]
    assert stand.cell(stand.last).node.snapshot(stand.world.now).kv_bytes == 100 * KV


def test_it_ends_with_its_deadline(stand):
    bring(stand, replace(ROWS, deadline_ms=2000))
    stand.world.run(2.0 + DEADLINE_GRACE_S + 0.01)
    assert stand.shadows(stand.last) == 0
    assert stand.cell(stand.last).counts["shadows_dropped", "DEADLINE"] == 1


@pytest.mark.parametrize(("epoch", "left"), [(Epoch(1), 1), (Epoch(0), 0), (None, 0)])
def test_it_ends_with_its_session_or_its_epoch(stand, epoch, left):
    bring(stand)
    stand.world.run(0.1)
    stand.say(CloseSession(SESSION, CloseReason.FINISHED, epoch), to=stand.last)
    assert stand.shadows(stand.last) == left


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("epoch", [Epoch(0), None])
def test_rows_that_come_after_the_end_open_nothing(stand, known, epoch):
    if known:
        bring(stand)
    stand.say(CloseSession(SESSION, CloseReason.FINISHED, epoch), to=stand.last)
    bring(stand)
    assert kept(stand) == [RefusalCode.UNKNOWN_SESSION]
    stand.world.run(ENDED_S)
    bring(stand)
    stand.world.run(0.1)
    assert kept(stand)[1:] == [8], "it is not remembered for ever"


def test_the_end_of_one_epoch_is_not_that_of_another(stand):
    stand.say(CloseSession(SESSION, CloseReason.FINISHED, Epoch(1)), to=stand.last)
    bring(stand)
    stand.world.run(0.1)
    assert kept(stand) == [8]


def test_who_may_not_close_a_session_ends_no_rows_of_it(stand):
    serve(stand)
    stand.say(CloseSession(SESSION, CloseReason.FINISHED), to=stand.last, by=stand.stranger)
    bring(stand, replace(ROWS, position=3, attempt=1))
    stand.world.run(0.1)
    assert kept(stand) == [11]


def test_so_many_ends_are_remembered(stand, monkeypatch):
    monkeypatch.setattr(shadows, "ENDED_MAX", 2)
    for name in (SESSION, SessionId(b"t" * 16), SessionId(b"t" * 16), SessionId(b"u" * 16)):
        stand.say(CloseSession(name, CloseReason.FINISHED), to=stand.last)
    bring(stand)
    stand.world.run(0.1)
    assert kept(stand) == [8]


def test_a_name_is_not_used_again_before_every_answer_came(stand, monkeypatch):
    monkeypatch.setattr(shadows, "ENDED_S", 0.0)
    bring(stand)
    stand.say(CloseSession(SESSION, CloseReason.FINISHED), to=stand.last)
    bring(stand)
    assert kept(stand) == [RefusalCode.OUT_OF_ORDER]


# --- attempts ---------------------------------------------------------------------------------------------------------


def serve(stand, attempt=0):
    """The last host serves the stage that the first one has, and is through with the prompt."""
    route = (stand.last, stand.last)
    stand.say(replace(OPEN, attempt=attempt, route=route), to=stand.last)
    stand.say(replace(OPEN, attempt=attempt, stage=1, route=route), ids(PROMPT), to=stand.last)
    stand.world.run(0.02)
    if attempt == 0:
        stand.feed(to=stand.last)
        stand.world.run(0.1)


def test_rows_of_a_later_attempt_make_a_server_a_shadow(stand):
    serve(stand)
    bring(stand, replace(ROWS, position=3, attempt=1))
    assert (stand.sessions(stand.last), stand.shadows(stand.last)) == (1, 1), "of its other stage nothing is known"
    assert stand.cell(stand.last).counts["sessions_superseded", "ROWS"] == 1
    stand.world.run(0.1)
    assert kept(stand) == [11]
    stand.feed(replace(STEP, position=3), to=stand.last)
    assert stand.cell(stand.last).counts["activations_refused", "UNKNOWN_SESSION"] == 1


@pytest.mark.parametrize("attempt", [0, 1])
def test_rows_of_the_same_or_an_older_attempt_are_refused_by_a_server(stand, attempt):
    serve(stand, 1)
    bring(stand, replace(ROWS, attempt=attempt))
    assert kept(stand) == [RefusalCode.OLD_ATTEMPT]
    assert stand.served(stand.last) == 2


def test_a_server_becomes_no_shadow_while_it_runs(stand):
    stand.cell(stand.last).run_s = 0.5
    serve(stand)
    bring(stand, replace(ROWS, attempt=1))
    assert kept(stand) == [0]
    assert stand.served(stand.last) == 2
    stand.world.run(1.0)
    bring(stand, replace(ROWS, position=3, attempt=1))
    stand.world.run(0.1)
    assert kept(stand) == [0, 11]


def test_a_shadow_knows_the_latest_attempt_it_heard_of(stand):
    bring(stand, replace(ROWS, attempt=4))
    stand.world.run(0.1)
    bring(stand, replace(ROWS, position=8, attempt=3))
    assert kept(stand) == [8, RefusalCode.OLD_ATTEMPT]
    stand.say(replace(OPEN, attempt=4), to=stand.last)
    assert stand.refusal().code is RefusalCode.OLD_ATTEMPT
    bring(stand, replace(ROWS, position=8, attempt=6))
    stand.world.run(0.1)
    stand.say(replace(OPEN, attempt=7), to=stand.last)
    assert stand.heard(SessionOpened)[-1] == SessionOpened(SESSION, 0, 7, 16, 16)


# --- room -------------------------------------------------------------------------------------------------------------


def test_a_shadow_needs_room_and_makes_none():
    stand = Stand(backed=True, kv_bytes_max=300 * KV, context=150)
    another, third, served = (SessionId(letter * 16) for letter in (b"t", b"u", b"v"))
    bring(stand, replace(ROWS, tokens_max=150))
    bring(stand, replace(ROWS, session=another, tokens_max=150))
    bring(stand, replace(ROWS, session=third, tokens_max=1, token_count=1), bytes(KV))
    assert kept(stand) == [RefusalCode.KV_FULL]
    stand.world.run(0.1)
    stand.say(replace(OPEN, stage=1, tokens_max=150, session=served), ids(PROMPT), to=stand.last)
    stand.world.run(0.1)
    assert (stand.shadows(stand.last), stand.sessions(stand.last)) == (1, 1), "who is served goes first"
    assert stand.cell(stand.last).counts["shadows_dropped", "ROOM"] == 1
    bring(stand, replace(ROWS, position=8, tokens_max=150))
    assert kept(stand)[-1] is RefusalCode.KV_FULL, "the oldest went"
    for name in (served, another):
        stand.close(name)
    stand.world.check_idle()


def test_there_are_no_more_than_sessions_may_be(stand):
    names = [SessionId(number.to_bytes(16)) for number in range(SESSIONS_MAX)]
    for name in names:
        bring(stand, replace(ROWS, session=name, tokens_max=8))
    bring(stand)
    assert kept(stand) == [RefusalCode.TOO_MANY_SESSIONS]
    for name in names:
        stand.say(CloseSession(name, CloseReason.FINISHED), to=stand.last)
    stand.world.run(0.1)


# --- whose they are -------------------------------------------------------------------------------------------------


def banish(stand):
    """The stranger stands in a trust zone of its own."""
    for cell in stand.world.cells.values():
        cell.node._tables.zones._zones[stand.stranger] = "elsewhere"


def test_an_ingress_of_the_same_zone_takes_a_shadow_up(stand):
    bring(stand)
    stand.world.run(0.1)
    stand.say(replace(OPEN, attempt=1), to=stand.last, by=stand.stranger)
    assert stand.heard(SessionOpened, stand.stranger) == [SessionOpened(SESSION, 0, 1, 8, 8)]
    stand.say(CloseSession(SESSION, CloseReason.FINISHED), to=stand.last, by=stand.stranger)


@pytest.mark.parametrize("tokens_max", [100, 200])
def test_nobody_of_another_zone_takes_a_shadow_up(stand, tokens_max):
    banish(stand)
    bring(stand)
    stand.world.run(0.1)
    stand.say(replace(OPEN, attempt=4096, tokens_max=tokens_max), to=stand.last, by=stand.stranger)
    assert not stand.heard(SessionOpened, stand.stranger)
    assert stand.refusal(stand.stranger).code is RefusalCode.UNKNOWN_SESSION
    stand.say(replace(OPEN, attempt=1), to=stand.last)
    assert stand.heard(SessionOpened) == [SessionOpened(SESSION, 0, 1, 8, 8)]


def test_what_was_served_stays_its_ingresss_as_a_shadow(stand):
    banish(stand)
    serve(stand)
    bring(stand, replace(ROWS, position=3, attempt=1))
    stand.world.run(0.1)
    stand.say(replace(OPEN, attempt=2), to=stand.last, by=stand.stranger)
    assert stand.refusal(stand.stranger).code is RefusalCode.UNKNOWN_SESSION


def test_rows_cannot_make_over_a_shadow_to_another_zone(stand):
    banish(stand)
    bring(stand)
    stand.world.run(0.1)
    bring(stand, replace(ROWS, position=8, attempt=5, ingress=stand.stranger))
    assert kept(stand) == [8, RefusalCode.UNKNOWN_SESSION]
    stand.say(replace(OPEN, attempt=6), to=stand.last, by=stand.stranger)
    assert stand.refusal(stand.stranger).code is RefusalCode.UNKNOWN_SESSION
    stand.say(replace(OPEN, attempt=1), to=stand.last)
    assert stand.heard(SessionOpened) == [SessionOpened(SESSION, 0, 1, 8, 8)]


def test_a_shadow_that_was_named_another_zones_costs_its_ingress_one_host(stand):
    """A host that lies makes itself useless; nobody lets a session go for what it says."""
    banish(stand)
    bring(stand, replace(ROWS, ingress=stand.stranger))
    stand.world.run(0.1)
    stand.say(replace(OPEN, attempt=1), to=stand.last)
    assert stand.refusal().code is RefusalCode.UNKNOWN_SESSION


# --- what peers get wrong ---------------------------------------------------------------------------------------------

REFUSED = {
    "an epoch nobody knows": (replace(ROWS, epoch=Epoch(7)), RefusalCode.STALE_EPOCH),
    "a deployment nobody knows": (replace(ROWS, deployment=DeploymentId("no")), RefusalCode.STALE_EPOCH),
    "a stage the plan has not": (replace(ROWS, stage=63), RefusalCode.NOT_HOSTED),
    "blocks of another stage": (replace(ROWS, first_block=3, last_block=4), RefusalCode.NOT_HOSTED),
    "blocks the sender has not": (replace(ROWS, stage=1, first_block=7, last_block=9), RefusalCode.NOT_HOSTED),
    "no blocks": (replace(ROWS, first_block=3, last_block=2), RefusalCode.OUT_OF_ORDER),
    "beyond the session": (replace(ROWS, position=93), RefusalCode.OUT_OF_ORDER),
    "an absurd position": (replace(ROWS, position=TOKENS_MAX), RefusalCode.OUT_OF_ORDER),
    "more than the context": (replace(ROWS, tokens_max=513), RefusalCode.OUT_OF_ORDER),
    "more rows than a frame has": (
        replace(ROWS, token_count=PREFILL_CHUNK_TOKENS, tokens_max=9),
        RefusalCode.OUT_OF_ORDER,
    ),
}


@pytest.mark.parametrize(("header", "code"), REFUSED.values(), ids=REFUSED)
def test_rows_that_cannot_be_are_refused_and_leave_nothing(stand, header, code):
    bring(stand, header, bytes(8))
    assert kept(stand) == [code]
    assert stand.cell(stand.last).counts["kv_rows_refused", code.name] == 1
    assert stand.shadows(stand.last) == 0
    assert not stand.cell(stand.last).tensors


def test_rows_without_rows_are_refused(stand):
    stand.say(ROWS, None, to=stand.last, by=stand.first)
    assert kept(stand) == [RefusalCode.OUT_OF_ORDER]


def test_rows_of_a_stranger_are_refused(stand):
    bring(stand, by=stand.stranger)
    assert kept(stand, stand.stranger) == [RefusalCode.NOT_HOSTED]
    bring(stand, to=stand.stranger)
    assert kept(stand) == [RefusalCode.NOT_HOSTED]


@pytest.mark.parametrize("size", [0, 1, 8 * KV - 1, 8 * KV + 1])
def test_rows_of_a_wrong_size_are_not_kept(stand, size):
    bring(stand, data=bytes(size) or b"\0")
    stand.world.run(0.1)
    assert kept(stand) == [RefusalCode.OUT_OF_ORDER]
    assert stand.cell(stand.last).counts["kv_rows_refused", "OUT_OF_ORDER"] == 1
    bring(stand)
    stand.world.run(0.1)
    assert kept(stand)[-1] == 8, "and harm nothing"


def test_a_shadow_is_as_long_as_it_was_opened_for(stand):
    bring(stand)
    stand.world.run(0.1)
    bring(stand, replace(ROWS, position=8, tokens_max=200, token_count=93))
    assert kept(stand) == [8, RefusalCode.OUT_OF_ORDER]


def test_a_stage_that_is_not_open_keeps_nothing(stand):
    stand.tenure(stand.last).held[0] = Holding.CLOSING
    bring(stand)
    assert kept(stand) == [RefusalCode.NOT_HOSTED]
    stand.say(replace(OPEN, attempt=1), to=stand.last)
    assert stand.refusal().code is RefusalCode.NOT_HOSTED
    stand.tenure(stand.last).held[0] = Holding.OPEN


def test_no_blocks_with_state_no_rows(stand):
    facts = stand.world.facts
    blocks = tuple(replace(block, kv_bytes_per_token=0) for block in facts.blocks)
    stand.cell(stand.last).node._tables.models[facts.model] = replace(facts, blocks=blocks)
    bring(stand)
    assert kept(stand) == [RefusalCode.OUT_OF_ORDER]


def test_a_frame_has_no_more_bytes_than_is_allowed(stand):
    facts = stand.world.facts
    blocks = tuple(replace(block, kv_bytes_per_token=200_000) for block in facts.blocks)
    stand.cell(stand.last).node._tables.models[facts.model] = replace(facts, blocks=blocks)
    bring(stand, replace(ROWS, token_count=2), bytes(8))
    assert kept(stand) == [RefusalCode.OUT_OF_ORDER]
