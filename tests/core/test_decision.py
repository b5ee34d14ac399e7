from dataclasses import replace

import pytest

from shoal_agent.core.crowding import price
from shoal_agent.core.decision import (
    HOLD_S,
    STAGING_MS_MIN,
    Choice,
    Hold,
    Move,
    Option,
    decide,
    gain_permille,
    move_of,
    promoted,
    redistributed,
    refilled,
    same_cuts,
    staging_ms,
    switch_mode,
)
from shoal_agent.core.facts import Width
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import Candidate, Link, Links, Split, problem_of, stages_of
from shoal_protocol.ids import Instant, NodeId
from shoal_protocol.limits import STAGING_MS_MAX
from shoal_protocol.messages import PlanStage, SwitchMode, Terms
from shoal_protocol.widths import ActivationWidth
from tests.support.toy import toy_facts

A, B, C, D, E = (NodeId(letter * 32) for letter in "abcde")
HOUR_MS = 3_600_000
RED, SPLIT = Choice.REDISTRIBUTE, Choice.RESPLIT


def scored(score_us):
    return Split((), score_us)


def options(*figures):
    return [Option(choice, scored(score), Move(1, 0, 0, time_ms)) for choice, score, time_ms in figures]


@pytest.mark.parametrize(
    ("current", "offered", "choice", "gain", "price"),
    [
        pytest.param(1000, [], Choice.KEEP, 0, 0, id="nothing else is possible"),
        pytest.param(1000, [(RED, 1000, 0), (SPLIT, 1000, 0)], Choice.KEEP, 0, 0, id="nothing is better"),
        pytest.param(1000, [(RED, 900, 0), (SPLIT, 801, 0)], Choice.KEEP, 0, 0, id="a little better is not enough"),
        pytest.param(1000, [(RED, 800, 0)], RED, 200, 0, id="enough is enough"),
        pytest.param(1000, [(RED, 800, 0), (SPLIT, 700, 0)], RED, 200, 0, id="the cheaper class wins"),
        pytest.param(1000, [(RED, 800, 0), (SPLIT, 640, 0)], SPLIT, 200, 0, id="unless the other beats it as well"),
        pytest.param(1000, [(RED, 950, 0), (SPLIT, 700, 0)], SPLIT, 300, 0, id="the dearer class alone"),
        pytest.param(1000, [(RED, 800, 1)], Choice.KEEP, 0, 0, id="the move must be paid for, rounded up"),
        pytest.param(1000, [(RED, 700, HOUR_MS // 10)], RED, 300, 100, id="and can be"),
        pytest.param(1000, [(RED, 700, HOUR_MS // 9)], Choice.KEEP, 0, 0, id="or not"),
        pytest.param(None, [(RED, 5000, 10**9)], RED, 0, 0, id="a repair costs what it costs"),
        pytest.param(None, [(RED, 1000, 500), (SPLIT, 810, 0)], RED, 0, 0, id="a repair moves little"),
        pytest.param(None, [(RED, 1000, 500), (SPLIT, 790, 0)], SPLIT, 210, 0, id="unless much is gained"),
        pytest.param(None, [(SPLIT, 900, 0)], SPLIT, 0, 0, id="the only way to go on"),
    ],
)
def test_the_cheapest_class_that_pays(current, offered, choice, gain, price):
    decision = decide(None if current is None else scored(current), options(*offered), HOUR_MS, 200)
    assert (decision.option.choice, decision.gain_permille, decision.price_permille) == (choice, gain, price)


def test_nothing_can_run():
    assert decide(None, [], HOUR_MS, 200) is None


def test_a_gain_of_nothing_is_never_worth_a_move():
    assert decide(scored(1000), options((RED, 1000, 0)), HOUR_MS, 0).option.choice is Choice.KEEP
    assert decide(scored(1000), options((RED, 999, 0)), HOUR_MS, 0).option.choice is RED


def test_the_text_has_the_numbers():
    move = Move(4, 0, 40_000_000, 400)
    decision = decide(scored(12_000), [Option(RED, scored(11_500), move), Option(SPLIT, scored(9000), move)], 8000, 150)
    assert decision.text == (
        "now 12.00 ms/token; "
        "redistribute 11.50 ms/token: 4.1 % better, moving 4 blocks (40.0 MB, 0.4 s) costs 5.0 %; "
        "re-split 9.00 ms/token: 25.0 % better, moving 4 blocks (40.0 MB, 0.4 s) costs 5.0 %; "
        "asked is a gain of 15.0 %: re-split"
    )
    worse = decide(scored(12_000), [Option(RED, scored(12_500), move)], 8000, 150)
    assert worse.text == "now 12.00 ms/token; redistribute 12.50 ms/token: no better; asked is a gain of 15.0 %: keep"
    assert decide(None, options((RED, 11_500, 400)), 8000, 150).text.startswith(
        "the plan cannot stay; redistribute 11.50 ms"
    )


def test_nothing_that_runs_is_broken_for_a_gain():
    better = Option(SPLIT, scored(500), Move(1, 0, 0, 0), breaks=True)
    kept = decide(scored(1000), [better], HOUR_MS, 200)
    assert kept.option.choice is Choice.KEEP
    assert "re-split 0.50 ms/token: 50.0 % better, but not without an outage" in kept.text
    assert decide(None, [better], HOUR_MS, 200).option is better, "what does not run cannot be broken"


def test_what_survives_any_loss_is_not_left_for_what_does_not():
    better = Option(SPLIT, scored(500), Move(1, 0, 0, 0), bares=True)
    kept = decide(scored(1000), [better], HOUR_MS, 200)
    assert kept.option.choice is Choice.KEEP
    assert "50.0 % better, but not every loss of one node would be survived" in kept.text
    assert decide(None, [better], HOUR_MS, 200).option is better, "a repair may be what it can be"
    other = Option(RED, scored(700), Move(1, 0, 0, 0))
    assert decide(scored(1000), [other, better], HOUR_MS, 200).option is other


@pytest.mark.parametrize(
    ("owed_s", "choice", "paid"),
    [
        pytest.param(0, SPLIT, 1, id="nobody owes anything: time alone counts, a second of an hour"),
        pytest.param(60, SPLIT, 18, id="a minute owed makes a second of fetching a minute more"),
        pytest.param(1000, Choice.KEEP, 0, id="much owed is more than the plan gains"),
    ],
)
def test_bytes_are_dear_where_they_are_owed(owed_s, choice, paid):
    cluster = problem(A, B)
    after = price(cluster, (PlanStage(B, 0, 0), PlanStage(A, 1, 5)))
    held = (PlanStage(B, 0, 1), PlanStage(A, 2, 5))
    move = move_of(cluster, after, held, {}, {A: owed_s, B: 10**6})
    assert (move.fetched_bytes, move.time_ms, move.owed_ms) == (32_000_000, 1320, 1000 * owed_s)
    decision = decide(scored(1000), [Option(SPLIT, scored(750), move)], HOUR_MS, 200)
    assert (decision.option.choice, decision.price_permille) == (choice, paid)
    assert (f"1.3 s and {owed_s}.0 s for what is owed) costs" in decision.text) == (owed_s > 0)


def test_what_is_on_the_disk_is_not_fetched_and_so_not_owed():
    after = price(problem(A, B), (PlanStage(A, 0, 5),))
    assert move_of(problem(A, B), after, (), {A: True}, {A: 1000}).owed_ms == 0


@pytest.mark.parametrize(
    ("before", "after", "gain"), [(1000, 800, 200), (1000, 1200, -200), (3, 2, 333), (3, 4, -334), (0, 5, -5000)]
)
def test_gain_is_rounded_against_the_move(before, after, gain):
    assert gain_permille(before, after) == gain


def problem(*nodes, blocks=6, terms=None, memory=10**6):
    facts = toy_facts(blocks)
    facts = replace(facts, blocks=tuple(replace(b, resident_bytes=32_000_000) for b in facts.blocks))
    return problem_of(facts, terms or Terms(), 512, tuple(Candidate(n, 10**9, memory * 10**3) for n in nodes))


def test_only_what_changes_owner_moves():
    held = (PlanStage(A, 0, 2), PlanStage(B, 3, 5))
    after = Split(split_model(problem(A, B, terms=Terms(stages_min=2))).stages, 1)
    assert [(s.first_block, s.last_block) for s in after.stages] == [(0, 0), (1, 5)]
    move = move_of(problem(A, B), after, held, {A: True})
    assert move == Move(2, 2 * 32_000_000, 2 * 32_000_000, 2 * 1320)
    assert move_of(problem(A, B), after, held, {A: True, B: True}) == Move(2, 0, 2 * 32_000_000, 640)
    assert move_of(problem(A, B), after, stages_of(after), {}) == Move()


def test_hosts_open_side_by_side():
    after = Split(split_model(problem(A, B, terms=Terms(stages_min=2))).stages, 1)
    assert move_of(problem(A, B), after, (), {A: True, B: True}).time_ms == 5 * 320


def test_a_deadline_leaves_room():
    assert staging_ms(Move()) == STAGING_MS_MIN
    assert staging_ms(Move(time_ms=1000)) == STAGING_MS_MIN + 4000
    assert staging_ms(Move(time_ms=10**12)) == STAGING_MS_MAX


HELD = (PlanStage(A, 0, 1), PlanStage(B, 2, 3), PlanStage(C, 4, 5))


def test_a_spare_takes_the_place_of_the_lost():
    split = refilled(problem(A, C, D), HELD)
    assert stages_of(split) == (HELD[0], replace(HELD[1], node=D), HELD[2])


def test_the_better_spare_is_taken():
    slow, fast = Candidate(B, 10**8, 10**9), Candidate(D, 10**9, 10**9)
    base = problem(C)
    split = refilled(replace(base, candidates=(*base.candidates, slow, fast)), (PlanStage(A, 0, 4), PlanStage(C, 5, 5)))
    assert [stage.node for stage in split.stages] == [D, C]


BACKED = (replace(HELD[0], standbys=(C, D)), replace(HELD[1], standbys=(A, D)), HELD[2])


def test_a_standby_that_has_no_stage_takes_the_place_of_a_lost_node():
    slow = Candidate(D, 10**8, 10**9)
    base = problem(A, C, E)
    split = promoted(replace(base, candidates=(*base.candidates, slow)), BACKED)
    assert [stage.node for stage in split.stages] == [A, D, C], "A has a stage, and E, though faster, no blocks"
    assert [stage.node for stage in refilled(replace(base, candidates=(*base.candidates, slow)), BACKED).stages] == [
        A,
        E,
        C,
    ]


@pytest.mark.parametrize(
    ("nodes", "memory"), [((A, B, C, D), 10**6), ((A, C, E), 10**6), ((C, D), 10**6), ((A, C, D), 60)]
)
def test_there_may_be_nobody_to_promote(nodes, memory):
    assert promoted(problem(*nodes, memory=memory), BACKED) is None


@pytest.mark.parametrize(
    ("nodes", "memory"), [((A, B, C, D), 10**6), ((A, C), 10**6), ((A, D), 10**6), ((D,), 10**6), ((A, C, D), 60)]
)
def test_there_may_be_nothing_to_refill_with(nodes, memory):
    assert refilled(problem(*nodes, memory=memory), HELD) is None


BENT = (PlanStage(A, 0, 0, (C, D)), PlanStage(B, 1, 4, (D,)), PlanStage(A, 5, 5, (D, C)))


def test_both_ends_of_a_u_go_to_standbys_be_it_one_or_two():
    split = promoted(problem(B, C, D), BENT)
    assert [stage.node for stage in split.stages] == [C, B, D]
    one = (replace(BENT[0], standbys=(D,)), BENT[1], replace(BENT[2], standbys=(D,)))
    assert [stage.node for stage in promoted(problem(B, D), one).stages] == [D, B, D]
    assert promoted(problem(B, D, memory=64_065), one) is None, "it has no room for both"
    assert promoted(problem(A, C), BENT) is None, "a standby of an end is none of the middle"


def test_a_lost_home_is_refilled_with_both_ends():
    split = refilled(problem(B, C), BENT)
    assert [stage.node for stage in split.stages] == [C, B, C]
    assert refilled(problem(B, C, memory=64_065), BENT) is None


def test_a_u_is_redistributed_as_one_and_a_row_is_not_bent():
    base = problem(A, B)
    assert base.u_shape
    merged = same_cuts(base, BENT)
    assert (merged.u_shape, merged.stages_min, merged.stages_max, merged.nodes_min) == (True, 3, 3, 1)
    split = redistributed(base, BENT, split_model(merged))
    assert [(stage.first_block, stage.last_block) for stage in split.stages] == [(0, 0), (1, 4), (5, 5)]
    assert split.stages[0].node == split.stages[2].node
    assert not same_cuts(base, HELD).u_shape


def test_a_host_opens_both_ends_one_after_the_other():
    base = problem(A, B)
    split = price(base, BENT)
    opened = {stage.node: stage for stage in split.stages}
    assert len(opened) == 2
    move = move_of(base, split, (), {A: True, B: True})
    assert move.time_ms == 4 * 320, "the middle is the slowest"
    held = (PlanStage(B, 1, 4), PlanStage(A, 0, 0))
    assert move_of(base, split, held, {A: True, B: True}).time_ms == 320
    assert move_of(base, split, held[:1], {A: True, B: True}).time_ms == 2 * 320


def test_a_switch_counts_both_ends_beside_what_is_held():
    split = price(problem(A, B), BENT)
    needed, held = 2 * 32_032_768, (PlanStage(A, 1, 1),)
    for memory, mode in (
        (needed + 32_000_000, SwitchMode.MAKE_BEFORE_BREAK),
        (needed + 31_999_999, SwitchMode.BREAK_BEFORE_MAKE),
    ):
        tight = replace(problem(B), candidates=(Candidate(A, 10**9, memory), Candidate(B, 10**9, 10**9)))
        assert switch_mode(tight, held, held, split) is mode


def test_a_redistribution_keeps_the_cuts():
    base = problem(A, B, C)
    fast = tuple(replace(c, speed_macs_per_s=10**9 * (1 + (c.node == C))) for c in base.candidates)
    asked, held = replace(base, candidates=fast), (PlanStage(A, 0, 3), PlanStage(B, 4, 5))
    merged = same_cuts(asked, held)
    assert (len(merged.blocks), merged.stages_min, merged.stages_max) == (2, 2, 2)
    split = redistributed(asked, held, split_model(merged))
    assert [(stage.node, stage.first_block, stage.last_block) for stage in split.stages] == [(C, 0, 3), (A, 4, 5)]


NARROW = (HELD[0], replace(HELD[1], width=ActivationWidth.F16), replace(HELD[2], width=ActivationWidth.I8))
WIDTHS = (Width("f32"), Width("f16", 500, 0, 0, 3), Width("i8", 250, 4, 0, 40))


def test_who_takes_a_stage_over_takes_its_input_as_it_was():
    base = replace(problem(A, C, D), widths=WIDTHS)
    assert stages_of(refilled(base, NARROW)) == (NARROW[0], replace(NARROW[1], node=D), NARROW[2])
    backed = (NARROW[0], replace(NARROW[1], standbys=(D,)), NARROW[2])
    assert [stage.width for stage in stages_of(promoted(base, backed))] == [stage.width for stage in NARROW]


def test_a_redistribution_takes_the_widths_that_are_best_where_it_goes():
    base = replace(problem(A, B, C), widths=WIDTHS, loss_max=3)
    fast = tuple(replace(c, speed_macs_per_s=10**9 * (1 + (c.node == C))) for c in base.candidates)
    asked = replace(base, candidates=fast, links=Links(Link(500, 10**3)))
    held = (PlanStage(A, 0, 3), replace(NARROW[1], node=B, first_block=4, last_block=5, width=ActivationWidth.F32))
    split = redistributed(asked, held, split_model(same_cuts(asked, held)))
    assert [stage.width for stage in stages_of(split)] == [ActivationWidth.F32, ActivationWidth.F16]


def hold_of(*evaluations):
    hold = Hold()
    return [hold.ripe(so, Instant(at)) for at, so in evaluations]


def test_a_gain_must_last():
    steady = [(float(at), True) for at in range(100, 170, 5)]
    assert hold_of(*steady) == [at - 100 >= HOLD_S for at, _ in steady]


def test_a_gap_in_the_gain_begins_again():
    assert not any(hold_of(*((float(at), at != 130) for at in range(100, 190, 5))))


def test_evaluations_that_did_not_happen_prove_nothing():
    assert hold_of((100.0, True), (165.0, True)) == [False, False]


def test_how_long_it_has_held_is_told():
    hold = Hold()
    assert hold.held_s(Instant(50.0)) == 0
    hold.ripe(True, Instant(100.0))
    assert hold.held_s(Instant(107.0)) == 7


# --- zones ------------------------------------------------------------------------------------------------------------

IN, OUT = "inside", "outside"


def zoned(**zones):
    """Blocks 0 and 1 must be inside, the others may be anywhere; nodes by their zone."""
    base = problem(*(NodeId(letter * 32) for letter in zones))
    candidates = tuple(replace(c, zone=zones[c.node[0]]) for c in base.candidates)
    return replace(base, candidates=candidates, zones=((IN,), (IN, OUT)) + ((),) * 4)


def test_the_same_cuts_keep_the_zones_of_all_their_blocks():
    assert same_cuts(zoned(a=IN), HELD).zones == ((IN,), (), ())
    assert same_cuts(problem(A), HELD).zones == ()


def test_whoever_steps_in_is_in_the_zone():
    assert refilled(zoned(b=OUT, c=OUT, d=OUT), HELD) is None
    assert refilled(zoned(b=OUT, c=OUT, d=OUT, e=IN), HELD).stages[0].node == E
    held = (replace(HELD[0], standbys=(D, E)), *HELD[1:])
    assert promoted(zoned(b=OUT, c=OUT, d=OUT, e=IN), held).stages[0].node == E
    assert promoted(zoned(b=OUT, c=OUT, d=OUT), held) is None
