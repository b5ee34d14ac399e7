import pytest

from shoal_agent.core.demand import ENOUGH, TOKENS_MIN, WINDOW_S_MAX, Demands, rounded
from shoal_agent.core.events import Sampled
from shoal_agent.core.gossip import DRIFT_SPACING_S
from shoal_protocol.ids import DeploymentId, Instant
from shoal_protocol.limits import DEMANDS_MAX, TOKENS_PER_KS_MAX
from shoal_protocol.measured import DemandMeasured
from shoal_protocol.messages import Load
from tests.support.toy import prompt_that_answers
from tests.support.world import TOY, capacity, world_of

CHAT, OTHER = DeploymentId("chat"), DeploymentId("other")


def ask(demands, rate_per_s, begun_s, ended_s, prompt=100, answer=50, name=CHAT):
    """So many requests a second, evenly; each answered at once."""
    for number in range(round((ended_s - begun_s) * rate_per_s)):
        now = Instant(begun_s + number / rate_per_s)
        demands.began(name, prompt, now)
        for _ in range(answer):
            demands.answered(name, now)


def told(demands, now):
    (one,) = demands.measured(Instant(now))
    return one.prompt_tokens_per_ks, one.answer_tokens_per_ks


def test_a_busy_ingress_knows_its_rate_after_a_minute():
    demands = Demands()
    ask(demands, 4, 0, 70)
    assert told(demands, 70) == (pytest.approx(400_000, rel=0.1), pytest.approx(200_000, rel=0.1))


def test_a_quiet_one_counts_for_as_long_as_it_takes():
    demands = Demands()
    ask(demands, 0.1, 0, 500)
    assert told(demands, 500) == (pytest.approx(10_000, rel=0.1), pytest.approx(5_000, rel=0.1))


def test_a_change_is_followed_within_a_minute_where_there_are_many():
    demands = Demands()
    ask(demands, 2, 0, 600)
    ask(demands, 6, 600, 665)
    assert told(demands, 665)[0] == pytest.approx(600_000, rel=0.1)


def test_a_handful_is_no_rate():
    demands = Demands()
    ask(demands, 1, 0, 1, prompt=TOKENS_MIN - 51)
    assert demands.measured(Instant(30)) == ()
    ask(demands, 1, 1, 2, prompt=10, answer=0)
    assert told(demands, 30) == (rounded(1000 * (TOKENS_MIN - 41) // 60), rounded(1000 * 50 // 60))


def test_a_rate_falls_once_nobody_comes_and_is_forgotten():
    demands = Demands()
    ask(demands, 4, 0, 120)
    falling = [told(demands, at)[1] for at in (120, 200, 300, 600)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < falling[0] / 10
    assert demands.measured(Instant(120 + WINDOW_S_MAX + 10)) == ()
    assert demands.measured(Instant(120 + WINDOW_S_MAX + 11)) == ()


def test_long_answers_count_while_they_are_given():
    """Two clients that are answered all the time are a load, though they began long ago."""
    demands = Demands()
    demands.began(CHAT, 10, Instant(0))
    for second in range(600):
        demands.answered(CHAT, Instant(float(second)))
    assert told(demands, 600)[1] == pytest.approx(1_000, rel=0.05)


def test_what_was_said_stands_until_it_is_a_step_away():
    demands = Demands()
    ask(demands, 4, 0, 120)
    said = demands.measured(Instant(120))
    for wobble in range(1, 20):
        now = 120.0 + wobble
        ask(demands, 4 + (0.1 if wobble % 2 else -0.1), now - 1, now)
        assert demands.measured(Instant(now)) == said
    ask(demands, 8, 139, 200)
    assert demands.measured(Instant(200)) != said


def test_each_deployment_is_told_by_itself_and_the_greatest_if_they_are_too_many():
    demands = Demands()
    for number in range(DEMANDS_MAX + 3):
        ask(demands, 1, 0, 60, prompt=100 + number, answer=1, name=DeploymentId(f"model-{number:02}"))
    names = [each.deployment for each in demands.measured(Instant(60))]
    assert len(names) == DEMANDS_MAX
    assert names == sorted(names)
    assert "model-00" not in names


def test_no_rate_exceeds_what_the_wire_holds():
    demands = Demands()
    for _ in range(ENOUGH):
        demands.began(CHAT, 2**31 - 1, Instant(0))
    assert demands.measured(Instant(1)) == (DemandMeasured(CHAT, TOKENS_PER_KS_MAX, 0),)


def test_however_many_come_little_is_kept():
    demands = Demands()
    ask(demands, 2, 0, 3_000, answer=1)
    demands.measured(Instant(3_000))
    assert sum(len(asked.buckets) for asked in demands._asked.values()) <= 181


@pytest.mark.parametrize("rate", [0, 1, 15, 16, 31, 33, 1_000, 123_456, 10**9])
def test_steps_are_a_sixteenth_or_less(rate):
    assert abs(rounded(rate) - rate) <= rate / 32
    assert rounded(rounded(rate)) == rounded(rate)


def test_what_clients_ask_is_counted_where_they_ask_and_told_to_everybody():
    world = world_of(2, 2)
    one, other, *_ = world.names
    prompt = prompt_that_answers(8)
    for _ in range(80):
        session = world.ask(one, prompt, tokens_max=8)
        world.run_until(lambda session=session: world.cells[one].ending(session) is not None)
    world.cells[one].post(Sampled(capacity(), Load(0, 10**9, None, 0, 0), world.wall_ms()))
    world.run(DRIFT_SPACING_S + 1)
    demands = {peer.node: peer.state.demands for peer in world.cells[other].node.snapshot(world.now).nodes}
    (told,) = demands[one]
    assert told.deployment == TOY
    assert told.answer_tokens_per_ks == pytest.approx(1000 * 80 * 8 / 60, rel=0.1)
    assert told.prompt_tokens_per_ks == pytest.approx(1000 * 80 * len(prompt) / 60, rel=0.1)
    assert demands[other] == (), "whoever only serves asks for nothing"
