from shoal_agent.core.chronicle import subject_of, tell_loss, tell_resume
from shoal_agent.core.facts import GenerationRequest, TokenPrompt
from shoal_agent.core.ledger import Entry, Gap, Step
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.plan import GENESIS_PARENT
from shoal_agent.core.resume import Restart, Start, Way
from shoal_agent.core.runs import Runs
from shoal_agent.core.story import Story
from shoal_protocol.ids import DeploymentId, Epoch, Instant, NodeId, SessionId
from shoal_protocol.messages import Plan, PlanStage
from tests.support.ordeal import backed_world
from tests.support.toy import GREEDY, MODEL

HOST = NodeId("abcdefgh" + "a" * 24)
PLAN = Plan(DeploymentId("toy"), Epoch(3), GENESIS_PARENT, MODEL, 512, (PlanStage(HOST, 0, 7),))


def entry(number: int) -> Entry:
    session = SessionId(bytes([number]) * 16)
    request = GenerationRequest(session, PLAN.deployment, TokenPrompt((1,)), GREEDY, 9, (), 30.0)
    made = Entry(request, PLAN, Instant(30.0), Step.STREAMING)
    made.attempt = 2
    return made


def at(now: float) -> Instant:
    return Instant(now)


def gap(*, moved: bool = False, cause: int | None = None) -> Gap:
    restart = Restart(Way.KV, (Start(44, 40), Start(40, 40)), Runs(3), 0.021)
    return Gap(at(10.0), at(10.3), cause, moved, at(10.35), restart, 44)


def test_a_loss_is_one_line_whatever_it_hit_and_is_caused_by_what_was_told_of_the_node():
    story = Story()
    cause = story.tell(at(1.0), HOST, "alive -> suspect")
    one = tell_loss(story, [entry(1)], HOST, "it is suspect", at(2.0))
    tell_loss(story, [entry(1), entry(2)], HOST, "it is dead", at(3.0))
    lines = story.about(subject_of(entry(1)))
    assert [line.text for line in lines] == [
        "abcdefgh is lost to session 01010101: it is suspect",
        "abcdefgh is lost to 2 sessions: it is dead",
    ]
    assert (lines[0].number, lines[0].cause) == (one, cause)
    assert lines[0].subject == "toy/3"


def test_a_resume_tells_the_way_the_positions_and_what_the_gap_consisted_of():
    story, out = Story(), Outbox(HOST)
    cause = tell_loss(story, [entry(1)], HOST, "why", at(10.3))
    tell_resume(story, entry(1), gap(cause=cause), at(10.4), out)
    (line,) = [line for line in story.about("toy/3") if line.cause == cause]
    assert line.text == (
        "session 01010101 went on at position 44 by kv after 400 ms "
        "(detect 300, switch 50, rebuild 50; 21 predicted), stages from 44, 40, attempt 2"
    )
    counted, noted = out.effects
    assert (counted.name, counted.label) == ("sessions_resumed", "kv")
    assert dict(noted.fields) == {
        "session": "01" * 16,
        "way": "kv",
        "position": 44,
        "attempt": 2,
        "gap_ms": 400.0,
        "detect_ms": 300.0,
        "switch_ms": 50.0,
        "rebuild_ms": 50.0,
        "predicted_ms": 21.0,
    }


def test_a_move_is_told_as_one_and_not_counted_as_a_resume():
    story, out = Story(), Outbox(HOST)
    tell_resume(story, entry(1), gap(moved=True), at(10.4), out)
    assert " by move after 400 ms " in story.entries()[-1].text
    (noted,) = out.effects
    assert noted.text == "session moved"


def test_a_stream_that_lost_its_host_explains_itself_back_to_the_silence():
    """In a world: the resume, the loss, and what the watch saw of the node."""
    world = backed_world(2)
    ingress = world.cells[world.names[-1]]
    sessions = [world.ask(ingress.name, (1, 2, 3), tokens_max=60) for _ in range(3)]
    world.run(0.3)
    world.kill(world.names[0])
    for session in sessions:
        world.answer(ingress.name, session)
    world.run(3.0)
    told = [line for line in ingress.node.story().about("toy/0") if line.at > 1.8]
    lost = [line for line in told if "is lost to 3 sessions" in line.text]
    resumed = [line for line in told if "went on at position" in line.text]
    assert len(lost) == 1
    assert len(resumed) == 3
    assert {line.cause for line in resumed} == {lost[0].number}
    world.check_idle()
