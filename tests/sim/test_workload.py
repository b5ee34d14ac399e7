from random import Random

from shoal_agent.core.events import CancelRequested
from shoal_agent.core.facts import ChatPrompt, TextPrompt, TokenPrompt
from shoal_agent.sim import workload
from shoal_agent.sim.oracles import prompt_tokens
from shoal_agent.sim.workload import Workload
from shoal_protocol.limits import PREFILL_CHUNK_TOKENS
from tests.support.sim import noted


def busy(seconds=60.0, rate=4.0, seed=1):
    world, notes = noted()
    end_s = world.agenda.now + seconds
    workload.begin(world, Workload(rate), Random(seed), end_s)
    world.run(seconds)
    return world, notes, end_s


def test_requests_arrive_at_the_rate_of_every_kind_and_then_no_more():
    world, notes, _ = busy()
    count = len(notes.requests)
    assert 160 < count < 320
    assert {type(request.prompt) for request in notes.requests} == {TokenPrompt, TextPrompt, ChatPrompt}
    assert any(request.tokens_max is None for request in notes.requests)
    assert any(request.stop for request in notes.requests)
    assert max(len(prompt_tokens(request)) for request in notes.requests) > PREFILL_CHUNK_TOKENS
    assert any(notes.events(name, CancelRequested) for name in world.names)
    world.run(5.0)
    assert len(notes.requests) == count


def test_sessions_are_never_the_same():
    _, notes, _ = busy(10.0)
    assert len({request.session for request in notes.requests}) == len(notes.requests)


def test_one_generator_is_one_workload():
    first, second = busy(5.0)[1], busy(5.0)[1]
    assert first.requests == second.requests
    assert first.requests != busy(5.0, seed=2)[1].requests


def test_no_rate_is_no_request():
    assert busy(5.0, rate=0.0)[1].requests == []
