from shoal_agent.sim.routing import Retained, Subscriptions
from shoal_protocol.ids import NodeId

A, B = NodeId("a" * 32), NodeId("b" * 32)


def test_a_plus_stands_for_one_level():
    subscriptions = Subscriptions()
    subscriptions.set(A, ["x/+/state"])
    subscriptions.set(B, ["x/1/state", "x/+/+"])
    assert subscriptions.hearers("x/1/state") == (B, A)
    assert subscriptions.hearers("x/2/death") == (B,)
    assert subscriptions.hearers("x/1") == subscriptions.hearers("x/1/state/y") == subscriptions.hearers("y") == ()


def test_a_change_is_complete_and_tells_what_is_new():
    subscriptions = Subscriptions()
    assert subscriptions.set(A, ["x", "y"]) == ["x", "y"]
    assert subscriptions.hearers("x") == (A,)
    assert subscriptions.set(A, ["y", "z"]) == ["z"]
    assert [subscriptions.hearers(topic) for topic in "xyz"] == [(), (A,), (A,)]
    subscriptions.drop(A)
    assert subscriptions.hearers("y") == ()
    assert subscriptions.set(A, ["y"]) == ["y"]


def test_the_last_message_of_a_topic_is_retained():
    retained = Retained()
    retained.keep("x/1/state", b"old")
    retained.keep("x/2/state", b"two")
    retained.keep("x/1/state", b"new")
    retained.keep("x/1", b"above")
    assert retained.under(["x/+/state"]) == [("x/1/state", b"new"), ("x/2/state", b"two")]
    assert retained.under(["x/2/state", "x/+", "y", "+"]) == [("x/2/state", b"two"), ("x/1", b"above")]
