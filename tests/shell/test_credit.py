from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from shoal_agent.shell.credit import ReceiveCredit, SendCredit


def test_a_frame_larger_than_the_grant_goes_alone():
    credit = SendCredit(100)
    assert credit.covers(101)
    credit.spend(1)
    assert not credit.covers(101)
    assert credit.covers(99)


def test_credit_is_returned_in_quarters():
    credit = ReceiveCredit(100)
    assert credit.receive(60)
    assert [credit.consume(size) for size in (10, 14, 1, 24, 1, 10)] == [0, 0, 25, 0, 25, 0]
    assert credit.settle() == 10
    assert credit.settle() == 0


def test_sending_without_credit_is_noticed():
    credit = ReceiveCredit(100)
    assert credit.receive(100)
    assert not credit.receive(1)
    assert not credit.receive(101)


def test_a_frame_larger_than_the_grant_is_accepted_alone_only():
    credit = ReceiveCredit(100)
    assert credit.receive(1000)
    assert not credit.receive(1)
    assert credit.consume(1000) == 1000
    assert credit.receive(1)
    assert not credit.receive(1000)


def test_returning_what_was_never_sent_is_noticed():
    credit = SendCredit(100)
    credit.spend(40)
    assert not credit.give_back(41)
    assert credit.in_flight == 40
    assert credit.give_back(40)


@given(st.integers(1, 1000), st.lists(st.integers(1, 3000), max_size=60), st.randoms(use_true_random=False))
def test_both_ends_agree_and_nothing_waits_for_ever(granted, sizes, rng):
    """A sender, a receiver that consumes when it likes, and asking where the rules say so: every frame arrives."""
    sender, receiver = SendCredit(granted), ReceiveCredit(granted)
    waiting, arrived, consumed = deque(sizes), deque(), 0
    while waiting or arrived:
        if waiting and sender.covers(waiting[0]):
            size = waiting.popleft()
            sender.spend(size)
            assert receiver.receive(size), "what the sender's account allows, the receiver's does too"
            arrived.append(size)
            assert sender.in_flight <= max(granted, *sizes)
            if rng.random() < 0.5:
                continue
        returned = 0
        if arrived:
            consumed += 1
            returned = receiver.consume(arrived.popleft())
        elif sender.must_ask(waiting[0]):
            returned = receiver.settle()
        else:
            assert sender.covers(waiting[0]), "stuck, and nothing to be done about it"
        assert sender.give_back(returned)
    assert consumed == len(sizes)
