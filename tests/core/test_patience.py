import math

import pytest

from shoal_agent.core.patience import (
    GROWTH_ROUNDS_MAX,
    PAUSE_S_MAX,
    PROPOSE_GROWTH_S,
    PROPOSE_S,
    VOTE_GROWTH_S,
    VOTE_S,
    Patience,
)


def test_waits_grow_with_the_rounds_since_the_last_new_beginning():
    patience = Patience(3, fresh_round=2)
    assert [patience.proposal_s(round_) for round_ in (2, 3, 6)] == [
        PROPOSE_S,
        PROPOSE_S + PROPOSE_GROWTH_S,
        PROPOSE_S + 4 * PROPOSE_GROWTH_S,
    ]
    assert patience.votes_s(4) == VOTE_S + 2 * VOTE_GROWTH_S
    assert patience.proposal_s(1000) == PROPOSE_S + GROWTH_ROUNDS_MAX * PROPOSE_GROWTH_S
    patience.hurry(6)
    assert patience.proposal_s(6) == PROPOSE_S


@pytest.mark.parametrize("voters", [1, 3, 7])
def test_pauses_begin_when_everybody_had_a_turn_and_double_up_to_a_minute(voters):
    patience = Patience(voters, 0)
    assert [patience.lost_s(wishful=True) for _ in range(voters - 1)] == [0.0] * (voters - 1)
    pauses = [patience.lost_s(wishful=True) for _ in range(100)]
    assert pauses[:5] == [VOTE_S * 2**index for index in range(5)]
    assert pauses == sorted(pauses)
    assert set(pauses[6:]) == {PAUSE_S_MAX}


def test_who_has_nothing_to_propose_waits_for_others_until_there_is_a_new_reason():
    patience = Patience(1, 0)
    assert patience.lost_s(wishful=False) == math.inf
    patience.hurry(1)
    assert patience.nil_rounds == 0
