import pytest

from shoal_agent.core import services
from shoal_agent.core.services import Method
from shoal_agent.sim.toy import EOS, GREEDY, NAMES, ToyServices, toy_blocks, toy_tokens
from shoal_protocol.ids import SessionId
from tests.support.toy import prompt_that_answers

SESSION = SessionId(bytes(16))
SAMPLER = next(name for name in NAMES if name.startswith("sampler"))
DETOKENIZER = next(name for name in NAMES if name.startswith("detokenizer"))


def split(prompt, edges):
    """The last hidden state of ``prompt`` when the blocks are split at ``edges``."""
    memories = [{} for _ in edges]
    hidden = 0
    for token in prompt:
        hidden = token
        for (first, last), memory in zip(edges, memories, strict=True):
            hidden = toy_blocks(hidden, first, last, memory)
    return hidden


def test_a_split_computes_what_the_whole_does():
    assert split((5, 6, 7), [(0, 7)]) == split((5, 6, 7), [(0, 2), (3, 3), (4, 7)])


@pytest.mark.parametrize("wrong", [(5, 7), (5, 6, 6, 7), (6, 5, 7), (4, 6, 7)])
def test_every_earlier_position_counts(wrong):
    assert split(wrong, [(0, 7)]) != split((5, 6, 7), [(0, 7)])


def test_every_block_counts():
    whole = split((5, 6, 7), [(0, 7)])
    assert all(split((5, 6, 7), [(0, gap - 1), (gap + 1, 7)]) != whole for gap in range(1, 7))


def test_an_answer_of_a_length_ends_by_itself():
    prompt = prompt_that_answers(4)
    assert len(toy_tokens(prompt, 8, 100)) == 4
    assert EOS not in toy_tokens(prompt, 8, 100)


def test_the_sampler_draws_for_any_position_after_its_history():
    toy = ToyServices()
    toy.serve(SAMPLER, Method.OPEN, services.pack(services.OpenSamplerRequest(SESSION, (1, 2), GREEDY)), None)
    drawn = [
        toy.serve(SAMPLER, Method.SAMPLE, services.pack(services.SampleRequest(SESSION, position)), 7)
        for position in (2, 3, 3, 2)
    ]
    assert [answer.token for answer in drawn] == [7] * 4
    with pytest.raises(AssertionError, match="what it was told"):
        toy.serve(SAMPLER, Method.SAMPLE, services.pack(services.SampleRequest(SESSION, 1)), 7)


def test_text_stops_before_its_stop_string():
    toy = ToyServices()
    opening = services.OpenDetokenizerRequest(SESSION, ("bc",), False)
    toy.serve(DETOKENIZER, Method.OPEN, services.pack(opening), None)
    shown = [
        toy.serve(DETOKENIZER, Method.PUSH, services.pack(services.PushRequest(SESSION, ord(letter), ())), None)
        for letter in "abc"
    ]
    assert [(each.text, each.stopped) for each in shown] == [("a", False), ("", False), ("", True)]


def test_a_session_that_is_not_open_is_refused():
    with pytest.raises(ValueError, match="no such session"):
        ToyServices().serve(DETOKENIZER, Method.FLUSH, services.pack(services.FlushRequest(SESSION)), None)


def test_closing_twice_is_harmless():
    toy = ToyServices()
    toy.close(SAMPLER, SESSION)
    toy.close(DETOKENIZER, SESSION)
