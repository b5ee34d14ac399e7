"""What is known of a run before it begins."""

from shoal_agent.core.events import StepAhead
from shoal_agent.core.habits import HALF_LIFE_S, Habits
from shoal_agent.core.pipeline import GENERATE, JOIN, Generation, Pipeline, Step
from shoal_protocol.ids import DeploymentId, Instant

TINY, NOW = DeploymentId("tiny"), Instant(10.0)
STEPS = (
    Step("all", JOIN, ("both", "ask")),
    Step("last", "turn", ("all",), "around"),
    Step("left", "turn", ("request.left",), "around"),
    Step("right", "turn", ("request.right",), "around"),
    Step("both", JOIN, ("left", "right", "request.left")),
    Step("ask", GENERATE, ("left",), "", TINY, Generation(8, chat=False)),
)
PIPELINE = Pipeline("p", STEPS, "last")
REQUEST = {"request.left": b"four", "request.right": b"seconds"}


def ahead(habits, now=NOW):
    return habits.ahead(PIPELINE, REQUEST, {"left": "turn:x"}, now)


def test_joins_take_no_time_and_are_seen_through():
    last, left, right, ask = ahead(Habits())
    assert [each.after for each in (last, left, right, ask)] == [(1, 2, 3), (), (), (1,)]
    assert left == StepAhead("left", (), 4, "turn:x")
    assert right.request_bytes == 7
    assert ask == StepAhead("ask", (1,), 11, "", TINY, False, 8)
    assert last.request_bytes == 11, "nothing is known, so it is as much as the whole request"


def test_what_was_given_and_generated_lately_is_expected_and_fades():
    habits = Habits()
    habits.began("p", "ask", 400, NOW)
    habits.began("q", "last", 5000, NOW)
    habits.generated("p", "ask", 30, 6, NOW)
    last, _, _, ask = ahead(habits)
    assert (ask.request_bytes, ask.prompt_tokens, ask.answer_tokens) == (400, 30, 6)
    assert last.request_bytes == 11, "another pipeline's step of that name is another one"
    _, _, _, ask = ahead(habits, Instant(NOW + HALF_LIFE_S))
    assert (ask.request_bytes, ask.prompt_tokens, ask.answer_tokens) == (200, 15, 3)
