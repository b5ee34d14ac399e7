import math
import timeit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.core.services import OpenSamplerRequest, SampleRequest
from shoal_agent.shell.services.sampler import Sampler
from shoal_agent.shell.services.sessions import ServiceError
from shoal_protocol.headers import Sampling
from shoal_protocol.ids import SessionId

SESSION = SessionId(bytes(16))
LOGITS = st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=60)
"""Few distinct values are drawn often by hypothesis, so ties are well covered."""


def sampling(temperature=1.0, top_k=0, top_p=1.0, penalty=1.0, seed=7, top_logprobs=-1):
    return Sampling(temperature, top_k, top_p, penalty, seed, top_logprobs)


def sampler(logits, how, history=()):
    made = Sampler(len(logits), (1,))
    made.open(OpenSamplerRequest(SESSION, tuple(history), how))
    return made


def draw(logits, how, position=0, history=()):
    made = sampler(logits, how, history)
    return made.sample(SampleRequest(SESSION, position), np.array(logits, dtype=np.float32).reshape(1, 1, -1))


def reference(logits, how, history=()):
    """The distribution the drawn token must have: {token: probability}, by the textbook and in plain Python."""
    values = [float(np.float32(value)) for value in logits]
    for token in set(history):
        scale = 1 / how.repetition_penalty if values[token] > 0 else how.repetition_penalty
        values[token] *= scale
    order = sorted(range(len(values)), key=lambda token: (-values[token], token))
    if how.temperature == 0.0:
        return {order[0]: 1.0}
    if how.top_k:
        order = order[: how.top_k]
    weights = {token: math.exp((values[token] - values[order[0]]) / how.temperature) for token in order}
    goal = how.top_p * sum(weights.values())
    kept: dict[int, float] = {}
    for token in order:
        kept[token] = weights[token]
        if how.top_p < 1.0 and sum(kept.values()) >= goal:
            break
    total = sum(kept.values())
    return {token: weight / total for token, weight in kept.items()}


@given(logits=LOGITS, data=st.data())
def test_greedy_takes_the_best_and_of_equals_the_first(logits, data):
    assert draw(logits, sampling(0.0), data.draw(st.integers(0, 9))).token == int(np.argmax(np.float32(logits)))


@given(
    logits=LOGITS,
    how=st.builds(
        sampling,
        temperature=st.floats(0.05, 3),
        top_k=st.integers(0, 70),
        top_p=st.floats(0.01, 1.0),
        penalty=st.sampled_from([1.0, 1.0, 1.3, 0.8]),
        seed=st.integers(0, 2**63 - 1),
    ),
    data=st.data(),
)
def test_only_tokens_of_the_textbook_are_drawn(logits, how, data):
    history = data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=8))
    token = draw(logits, how, data.draw(st.integers(0, 4096)), history).token
    allowed = reference(logits, how, history)
    # In float32 a token exactly at the edge of top-p or top-k may fall on the other side.
    loose = sampling(how.temperature, how.top_k, min(1.0, how.top_p + 1e-4), how.repetition_penalty)
    nearly = reference(logits, loose, history)
    edge = min(allowed, key=lambda other: allowed[other])
    near_edge = math.isclose(
        reference(logits, sampling(how.temperature), history)[token],
        reference(logits, sampling(how.temperature), history)[edge],
        rel_tol=1e-4,
    )
    assert token in allowed or token in nearly or near_edge


@pytest.mark.parametrize(
    "how",
    [
        sampling(),
        sampling(temperature=0.6),
        sampling(temperature=1.7),
        sampling(top_k=5),
        sampling(top_p=0.8),
        sampling(temperature=0.9, top_k=8, top_p=0.7),
        sampling(penalty=1.5),
        sampling(temperature=0.8, top_k=6, top_p=0.9, penalty=0.7),
    ],
    ids=lambda how: f"t{how.temperature}k{how.top_k}p{how.top_p}r{how.repetition_penalty}",
)
def test_tokens_are_drawn_in_proportion(how):
    """Pearson's chi-square against the textbook; the seeds are fixed, so it passes always or never."""
    logits = np.random.default_rng(11).normal(size=20).astype(np.float32) * 2
    history = (0, 3, 3, 9)
    expected = reference(logits, how, history)
    draws = 4000
    counts = dict.fromkeys(range(len(logits)), 0)
    for position in range(draws):
        counts[draw(logits, how, position, history).token] += 1
    assert {token for token, count in counts.items() if count} <= set(expected)
    # Tokens too rare for the test to hold (fewer than five draws expected) are counted together.
    bins = [(counts[token], draws * p) for token, p in expected.items() if draws * p >= 5]
    rare = [(counts[token], draws * p) for token, p in expected.items() if draws * p < 5]
    bins += [(sum(count for count, _ in rare), sum(mean for _, mean in rare))] if rare else []
    statistic = sum((count - mean) ** 2 / mean for count, mean in bins)
    freedom = len(bins) - 1
    # Mean ``freedom``, variance ``2 freedom``: four standard deviations above is one in many thousands.
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_a_draw_depends_on_seed_and_position_alone():
    logits = np.zeros(1000, dtype=np.float32)
    row = [draw(logits, sampling(seed=5), position).token for position in range(50)]
    assert row == [draw(logits, sampling(seed=5), position).token for position in reversed(range(50))][::-1]
    assert len(set(row)) > 40
    assert row != [draw(logits, sampling(seed=6), position).token for position in range(50)]
    assert row[:5] == [733, 717, 846, 751, 133], "another library would break a session that moves to another node"


def test_a_session_moved_with_its_history_goes_on_as_if_it_had_stayed():
    rng = np.random.default_rng(3)
    steps = rng.normal(size=(40, 30)).astype(np.float32)
    how = sampling(temperature=0.8, top_k=10, top_p=0.95, penalty=1.4)
    prompt = (4, 5)
    stays = sampler(steps[0], how, prompt)
    tokens = [stays.sample(SampleRequest(SESSION, at), logits).token for at, logits in enumerate(steps)]
    moved = sampler(steps[0], how, (*prompt, *tokens[:17]))
    assert [moved.sample(SampleRequest(SESSION, at), steps[at]).token for at in range(17, 40)] == tokens[17:]


def test_a_drawn_token_is_penalised_from_then_on():
    made = sampler([3.0, 2.0, 1.0], sampling(temperature=0.0, penalty=2.0))
    logits = np.array([3.0, 2.0, 1.0], dtype=np.float32)
    assert [made.sample(SampleRequest(SESSION, at), logits).token for at in range(4)] == [0, 1, 0, 0]
    assert logits.tolist() == [3.0, 2.0, 1.0]


def test_a_negative_logit_is_penalised_downwards():
    assert draw([-1.0, -1.5], sampling(temperature=0.0, penalty=2.0), history=(0,)).token == 1


def test_the_end_of_a_turn_is_told():
    assert draw([0.0, 9.0, 0.0], sampling(0.0)).end
    assert not draw([9.0, 0.0, 0.0], sampling(0.0)).end


@given(logits=LOGITS, count=st.integers(0, 20), temperature=st.sampled_from([0.0, 0.5, 2.0]))
def test_logprobs_are_of_the_plain_softmax(logits, count, temperature):
    answer = draw(logits, sampling(temperature, top_p=0.5, penalty=1.7, top_logprobs=count), history=(0,))
    values = np.array(logits, dtype=np.float32).astype(np.float64)
    plain = values - values.max() - math.log(np.exp(values - values.max()).sum())
    assert answer.logprob == pytest.approx(plain[answer.token], abs=1e-4)
    assert [value for _, value in answer.top] == pytest.approx(sorted(plain, reverse=True)[:count], abs=1e-4)
    assert len({token for token, _ in answer.top}) == len(answer.top) == min(count, len(logits))
    assert all(value == pytest.approx(plain[token], abs=1e-4) for token, value in answer.top)


def test_no_logprobs_are_computed_unless_wanted():
    answer = draw([1.0, 2.0, 3.0], sampling(0.0, top_logprobs=-1))
    assert (answer.logprob, answer.top) == (0.0, ())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("at", [0, 2])
def test_logits_that_are_not_finite_are_refused(bad, temperature, at):
    logits = [1.0, 2.0, 3.0]
    logits[at] = bad
    with pytest.raises(ServiceError, match="not finite"):
        draw(logits, sampling(temperature))


def test_a_penalty_that_overflows_is_refused_not_drawn():
    with pytest.raises(ServiceError, match="not finite"):
        draw([3e38, 1.0], sampling(penalty=1e-3), history=(0,))


@pytest.mark.parametrize(
    "logits", [np.zeros(2, np.float32), np.zeros((2, 3), np.float32), np.zeros(3, np.int64)], ids=lambda x: str(x.shape)
)
def test_logits_of_another_shape_or_kind_are_refused(logits):
    with pytest.raises(ServiceError, match="expected 3 logits"):
        sampler([0.0] * 3, sampling()).sample(SampleRequest(SESSION, 0), logits)


def test_half_precision_logits_are_taken():
    logits = np.array([0.0, 3.0], dtype=np.float16)
    assert sampler(logits, sampling(0.0)).sample(SampleRequest(SESSION, 0), logits).token == 1


def test_a_history_outside_the_vocabulary_is_refused():
    with pytest.raises(ServiceError, match="not in the vocabulary"):
        sampler([0.0, 0.0], sampling(penalty=1.1), (2,))


def test_a_closed_session_is_forgotten():
    made = sampler([0.0, 1.0], sampling())
    made.close(SESSION)
    with pytest.raises(ServiceError, match="no such session"):
        made.sample(SampleRequest(SESSION, 0), np.zeros(2, np.float32))


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-50, 5e-324])
def test_a_very_low_temperature_is_greedy(temperature):
    assert draw([1.0, 1.5, 1.25], sampling(temperature=temperature)).token == 1
    assert draw([1.0, 1.5, 1.25], sampling(temperature=temperature, top_p=0.5)).token == 1


def test_flat_logits_beyond_the_first_tries_still_make_an_exact_nucleus():
    """Top-p of a uniform distribution over 20,000 tokens keeps exactly the first 19,000 of them."""
    logits = np.zeros(20_000, dtype=np.float32)
    drawn = [draw(logits, sampling(top_p=0.95), position).token for position in range(200)]
    assert max(drawn) < 19_001
    assert max(drawn) > 15_000


def test_greedy_over_a_real_vocabulary_is_quick():
    logits = np.random.default_rng(0).normal(size=49_152).astype(np.float32)
    made = sampler(logits, sampling(0.0))
    request = SampleRequest(SESSION, 0)
    best = min(timeit.repeat(lambda: made.sample(request, logits), number=20, repeat=20)) / 20
    assert best < 200e-6, f"{best * 1e6:.0f} us; the aim is 60"
