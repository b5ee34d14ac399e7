"""Answers without some blocks: chosen by what presses, kept for life wherever a session goes, paid back on average."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_agent.core.effects import Accept, OpenStage, SendFrame
from shoal_agent.core.facts import Claim, GenerationRequest, Shortcut, TokenPrompt
from shoal_agent.core.ledger import Entry, Step
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.rescue import Ahead
from shoal_agent.core.service_classes import LEVEL_TOKENS, Classes, RequestClass
from shoal_agent.core.shortening import OWED_MAX, TELL_S, Shortening, named
from shoal_agent.core.tables import Tables
from shoal_protocol.headers import KvRows, OpenSession, RefusalCode, SessionRefused
from shoal_protocol.ids import Epoch, Instant, SessionId
from tests.support.ordeal import Pauses, backed_world, decide, entry_of, ingress_of
from tests.support.toy import GREEDY, MODEL, toy_facts, toy_tokens
from tests.support.world import TOY, World

SHORT, LONG = Shortcut((3, 3), 60_000), Shortcut((2, 5), 400_000)
LOOSE = RequestClass("loose", 200_000.0, 0.1, loss_micronats=1_000_000.0)
STRICT = RequestClass("strict", 200_000.0, 0.1)
RUN = range(2, 6)
LONG_TEST = pytest.mark.long
COUNT = 60
OTHERS = 150


def without(prompt: tuple[int, ...], count: int = COUNT) -> list[int]:
    return toy_tokens(prompt, 8, count, RUN)


def answers(prompt: tuple[int, ...]) -> bool:
    return len(without(prompt)) == len(toy_tokens(prompt, 8, COUNT)) == COUNT


PROMPT = next(text for n in range(251) if answers(text := (n, 5)))
LONGEST = next(text for n in range(251) if len(toy_tokens(text := (n, 9), 8, OTHERS)) == OTHERS)


def a_world(stages: int = 2, **options) -> World:
    return backed_world(stages, classes=(LOOSE, STRICT), shortcuts=(SHORT, LONG), **options)


@pytest.fixture(params=[3, pytest.param(2, marks=pytest.mark.long), pytest.param(4, marks=pytest.mark.long)])
def world(request):
    """Of three stages one is left out, and a part of each of the others."""
    made = a_world(request.param)
    yield made
    made.run_until(lambda: not ingress_of(made).node.snapshot(made.now).requests)
    made.check_idle()


def accepted(world: World, session: SessionId) -> Accept:
    return next(answer for answer in ingress_of(world).answers[session] if isinstance(answer, Accept))


def pressed(world: World) -> SessionId:
    """Somebody else's long answer is under way."""
    session = world.ask(ingress_of(world).name, LONGEST, tokens_max=OTHERS)
    world.run_until(lambda: ingress_of(world).tokens(session))
    return session


def begun(world: World, at: int = 10, **wish) -> SessionId:
    wish = {"tokens_max": COUNT, "kind": "loose", "deadline_s": 200.0} | wish
    session = world.ask(ingress_of(world).name, PROMPT, **wish)
    world.run_until(lambda: len(ingress_of(world).tokens(session)) >= at)
    return session


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_under_load_blocks_are_left_out_and_alone_none(world):
    name = ingress_of(world).name
    alone = begun(world)
    assert world.answer(name, alone) == toy_tokens(PROMPT, 8, COUNT)
    other = pressed(world)
    short = begun(world)
    assert accepted(world, short).left_out == (2, 5)
    assert world.answer(name, short) == without(PROMPT)
    assert world.answer(name, other) == toy_tokens(LONGEST, 8, OTHERS), "the other one is answered as ever"
    again = begun(world)
    assert world.answer(name, again) == toy_tokens(PROMPT, 8, COUNT)
    assert (accepted(world, alone).left_out, accepted(world, again).left_out) == (None, None)
    told = [entry.text for entry in ingress_of(world).node.story().about("toy/0") if "class loose" in entry.text]
    assert [text.split(" now")[0] for text in told] == [
        "answers of class loose are by the model without blocks 2-5",
    ]
    counts = ingress_of(world).counts
    assert (counts["answers", "whole"], counts["answers", "2-5"]) == (2, 1)


@pytest.mark.parametrize("kind", ["strict", pytest.param("", marks=LONG_TEST), pytest.param("who", marks=LONG_TEST)])
def test_a_class_that_tolerates_nothing_gets_the_whole_model(world, kind):
    pressed(world)
    session = begun(world, kind=kind)
    assert accepted(world, session).left_out is None
    assert world.answer(ingress_of(world).name, session) == toy_tokens(PROMPT, 8, COUNT)
    assert not [frame for frame in world.log if isinstance(frame[2], OpenStage) and frame[2].left_out]


def test_what_was_lost_is_owed_until_others_have_paid_it_back():
    world = backed_world(classes=(replace(LOOSE, loss_micronats=100_000.0),), shortcuts=(LONG,))
    pressed(world)
    session = begun(world)
    assert world.answer(ingress_of(world).name, session) == without(PROMPT)
    level = ingress_of(world).node.snapshot(world.now).losses
    assert level == (("loose", pytest.approx(COUNT * 3 / LEVEL_TOKENS)),)
    calm = begun(world, tokens_max=40)
    assert len(world.answer(ingress_of(world).name, calm)) == 40


# --- kept for life ----------------------------------------------------------------------------------------------------


def test_only_what_is_run_has_kv(world):
    pressed(world)
    before = {name: cell.node.snapshot(world.now).kv_bytes for name, cell in world.cells.items()}
    session = begun(world)
    rows = [f.header for _, _, f in world.log if isinstance(f, SendFrame) and isinstance(f.header, KvRows)]
    hosts = world.names[: len(entry_of(world, session).plan.stages)]
    kept = sum(world.cells[host].node.snapshot(world.now).kv_bytes - before[host] for host in hosts)
    assert kept == 4 * 64 * (COUNT + len(PROMPT)), "of eight blocks four"
    assert {header.left_out for header in rows if header.session == session} == {(2, 5)}
    assert world.answer(ingress_of(world).name, session) == without(PROMPT)


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=LONG_TEST), pytest.param(-1, marks=LONG_TEST)])
def test_a_lost_host_changes_no_token(world, stage):
    pressed(world)
    session = begun(world)
    world.kill(entry_of(world, session).route[stage])
    assert world.answer(ingress_of(world).name, session) == without(PROMPT)
    assert sum(count for (name, _), count in ingress_of(world).counts.items() if name == "sessions_resumed") == 2
    world.run(5.0)


@pytest.mark.long
def test_without_standbys_what_is_lost_is_run_again_and_the_same():
    world = a_world(2, standbys=0, outsiders=3)
    pressed(world)
    session = begun(world)
    world.break_link(world.names[0], world.names[1])
    world.run(0.2)
    world.cut.clear()
    assert world.answer(ingress_of(world).name, session) == without(PROMPT)


@pytest.mark.parametrize(
    "hosts", [pytest.param((2, 3), marks=LONG_TEST), pytest.param((2,), marks=LONG_TEST), (2, 3, 0)]
)
def test_it_moves_to_another_epoch_and_stays_what_it_is(hosts):
    world = a_world(2, standbys=0, outsiders=3)
    pressed(world)
    session = begun(world, deadline_s=200.0)
    for cell in world.cells.values():
        cell.block_s = 0.01
    world.run(1.0)
    decide(world, world.plan([world.names[host] for host in hosts], epoch=1))
    assert world.answer(ingress_of(world).name, session) == without(PROMPT)
    assert ingress_of(world).counts["sessions_migrated", "toy"] >= 1


def test_a_node_of_two_stages_leaves_its_part_of_both_out():
    world = World(4, classes=(LOOSE, STRICT), shortcuts=(SHORT, LONG))
    world.start()
    ends, middle = world.names[:2]
    world.deploy([ends, middle, ends])
    for cell in world.cells.values():
        cell.block_s = 0.001
    pressed(world)
    session = begun(world)
    assert accepted(world, session).left_out == (2, 5)
    assert world.answer(ingress_of(world).name, session) == without(PROMPT)
    opened = [effect for effect in world.cells[ends].asked(OpenStage) if effect.session == session]
    assert [effect.left_out for effect in opened] == [(2, 5)] * 2


def test_a_client_that_comes_back_elsewhere_reads_the_rest_of_the_same():
    world = a_world(2, outsiders=3)
    claim = Claim(bytes(range(32)), bytes(32))
    other = world.cells[world.names[-2]]
    pressed(world)
    session = begun(world, claim=claim)
    shown = ingress_of(world).tokens(session)
    world.kill(ingress_of(world).name)
    world.run(0.1)
    wish = {"tokens_max": COUNT, "kind": "loose", "session": session}
    world.ask(other.name, PROMPT, claim=replace(claim, seen=len(shown)), **wish)
    told = world.answer(other.name, session)
    assert told == without(PROMPT)
    assert next(a for a in other.answers[session] if isinstance(a, Accept)).left_out == (2, 5)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(3))
def test_pauses_and_losses_change_no_token(seed):
    """A host stops for a while, wakes, and says what nobody waits for."""
    world = a_world(2, seed=seed)
    pauses = Pauses(world)
    pressed(world)
    session = begun(world)
    struck = entry_of(world, session).route[seed % 2]
    pauses.pause(struck)
    world.run(3.0)
    pauses.wake(struck)
    assert world.answer(ingress_of(world).name, session) == without(PROMPT)


# --- certified here ---------------------------------------------------------------------------------------------------


def test_a_stage_that_does_not_certify_it_is_answered_by_the_whole_model(world):
    host = world.cells[world.names[1]]
    host.node._tables.models[MODEL] = replace(world.facts, shortcuts=())
    pressed(world)
    session = begun(world)
    assert accepted(world, session).left_out is None
    assert world.answer(ingress_of(world).name, session) == toy_tokens(PROMPT, 8, COUNT)
    assert ingress_of(world).counts["shortcuts_refused", host.name[:8]] == 1
    assert host.counts["sessions_refused", "NOT_CERTIFIED"] == 1
    assert ingress_of(world).node.snapshot(world.now).losses == (("loose", 0.0),), "nothing was lost"


def test_a_run_that_is_not_certified_is_refused(world):
    host, session, asker = world.cells[world.names[0]], SessionId(b"s" * 16), ingress_of(world).name
    for left_out in ((2, 4), (5, 2), (1, 7), (200, 300)):
        header = OpenSession(TOY, Epoch(0), session, 0, 20, 1000, GREEDY, left_out=left_out)
        world.inject(asker, host.name, header)
    refused = [f.header.code for f in host.asked(SendFrame) if isinstance(f.header, SessionRefused)]
    assert refused == [RefusalCode.NOT_CERTIFIED] * 4
    assert not host.stages


def test_rows_of_another_option_are_refused():
    world = a_world(2)
    pressed(world)
    session = begun(world)
    standby = world.cells[world.names[2]]
    held = next(h for h in standby.node._host._holdings.all() if h.key[0] == session)
    before = held.finished
    other = KvRows(TOY, held.plan.epoch, session, 0, 0, 3, before, 1, held.tokens_max, 5000, held.ingress, 0, None)
    world.inject(world.names[0], standby.name, other, bytes(4 * 64))
    assert standby.counts["kv_rows_refused", "OUT_OF_ORDER"] == 1
    unknown = replace(other, left_out=(0, 9))
    world.inject(world.names[0], standby.name, unknown, bytes(4 * 64))
    assert standby.counts["kv_rows_refused", "NOT_CERTIFIED"] == 1
    assert held.finished == before
    assert world.answer(ingress_of(world).name, session) == without(PROMPT)


# --- the sum ----------------------------------------------------------------------------------------------------------

TOLERATED = 100_000.0


class Bare:
    """The rule alone, beside tables of which only what it reads is filled."""

    def __init__(self, tolerated: float = TOLERATED) -> None:
        self.tables = Tables(classes=Classes([RequestClass("loose", 1000.0, 0.1, tolerated)]))
        self.facts = self.tables.models[MODEL] = replace(toy_facts(), shortcuts=(SHORT, LONG))
        self.rule, self.out = Shortening(self.tables), Outbox("n" * 32)
        self.plan = World(1).plan(["n" * 32])
        self.entries: list[Entry] = []

    def ask(self, busiest: int, answer: int = 64, done_s: float = 1.0, left_s: float = 10.0, at: float = 0.0) -> Entry:
        session = SessionId(len(self.entries).to_bytes(16, "big"))
        request = GenerationRequest(session, TOY, TokenPrompt((1,)), GREEDY, answer, (), left_s, kind="loose")
        entry = Entry(request, self.plan, Instant(at + left_s), Step.OPENING)
        entry.begin((1,))
        ahead = Ahead(self.plan, ("n" * 32,), busiest, answer, busiest, busiest)

        def takes_s(left_out):
            return done_s * (1 - (0 if left_out is None else (left_out[1] - left_out[0] + 1) / 8))

        entry.left_out = self.rule.choose(entry, ahead, takes_s, self.entries, Instant(at), self.out)
        self.entries.append(entry)
        return entry

    def end(self, entry: Entry, tokens: int) -> float:
        """It is over after ``tokens``; what it lost."""
        entry.tokens += [7] * tokens
        self.entries.remove(entry)
        self.rule.ended(entry, len(self.entries), Instant(0.0))
        shortcut = self.facts.shortcut(entry.left_out)
        return tokens * (0.0 if shortcut is None else shortcut.loss)

    @property
    def level(self) -> float:
        return self.tables.classes.quality("loose").level


def test_nothing_presses_so_nothing_is_lost():
    assert Bare().ask(0).left_out is None
    assert Bare(1e7).ask(0, done_s=9.9).left_out is None, "however little it would cost"


def test_the_more_press_the_more_is_left_out():
    found = [Bare(2e6).ask(sessions).left_out for sessions in range(30)]
    assert found[0] is None
    assert found[-1] == LONG.left_out
    assert [named(one) for one in dict.fromkeys(found)] in (["whole", "2-5"], ["whole", "3-3", "2-5"])


def test_who_would_be_late_gets_the_quicker_way():
    assert Bare().ask(0, done_s=12.0, left_s=10.0).left_out is not None


def test_a_class_that_is_owed_gets_the_quicker_way_sooner():
    bare = Bare()
    assert bare.ask(0, done_s=8.0).left_out is None
    for _ in range(3):
        bare.tables.classes.ended("loose", late=True)
    assert bare.ask(0, done_s=8.0).left_out is not None


def test_what_nodes_tell_late_of_this_node_s_own_sessions_is_not_held_against_it():
    bare = Bare()
    route = ("n" * 32,)

    def chosen(own: int, told: int, at: float) -> str:
        ahead, entry = Ahead(bare.plan, route, max(own, told), 64, own, told), bare.ask(0)
        bare.entries.remove(entry)
        return named(bare.rule.choose(entry, ahead, lambda _: 1.0, (), Instant(at), bare.out))

    assert chosen(0, 9, 20.0) == "2-5", "others press"
    assert chosen(9, 9, 40.0) == "2-5", "we do"
    assert chosen(0, 9, 41.0) == "whole", "they tell of ours"
    assert chosen(0, 19, 42.0) == "2-5", "of ten at the most"
    assert chosen(0, 9, 60.0) == "2-5", "that was long ago"


def test_the_story_does_not_grow_with_traffic():
    bare = Bare()
    for _ in range(200):
        bare.end(bare.ask(12, 64), 64)
    assert bare.tables.story.told == 1
    bare.end(bare.ask(0, 64, at=TELL_S), 64)
    told = [entry.text.split(" now")[0] for entry in bare.tables.story.entries()]
    assert told[-1] == "answers of class loose are by the whole model"


def test_those_under_way_count_as_if_they_had_lost_already():
    bare = Bare()
    chosen = [bare.ask(30, answer=128).left_out for _ in range(60)]
    dear = [one for one in chosen if one == LONG.left_out]
    expected = 3.0 * 128 / LEVEL_TOKENS * len(dear)
    assert expected <= OWED_MAX, "there is no more to be owed"
    assert 0 < len(dear) < 5


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 512), st.floats(0, 1), st.integers(0, 3)), min_size=1, max_size=150
    )
)
def test_the_mean_loss_is_within_what_is_tolerated(history):
    """Whatever comes, at whatever load, with however many at once, of whatever length up to what was expected."""
    bare, lost, drawn = Bare(), 0.0, 0
    for sessions, answer, share, over in history:
        bare.ask(sessions, answer).usual_s = share
        for entry in bare.entries[:over]:
            tokens = max(1, int(entry.usual_s * entry.answer_tokens))
            lost += bare.end(entry, tokens)
            drawn += tokens
        assert bare.level <= OWED_MAX
        assert lost <= TOLERATED * (drawn + bare.level * LEVEL_TOKENS) + 1e-3


def test_under_lasting_pressure_the_mean_is_what_is_tolerated():
    bare, lost = Bare(), 0.0
    for _ in range(1500):
        lost += bare.end(bare.ask(12, 64), 64)
    assert 0.85 * TOLERATED <= lost / (1500 * 64) <= TOLERATED * (1 + LEVEL_TOKENS / (1500 * 64))
