from shoal_agent.sim.agenda import Agenda


def test_things_happen_in_their_order_and_time_follows():
    agenda, seen = Agenda(), []
    for at in (3.0, 1.0, 2.0):
        agenda.at(at, lambda: seen.append(agenda.now))
    agenda.run_to(2.5)
    assert seen == [1.0, 2.0]
    assert agenda.now == 2.5
    agenda.run_to(3.0)
    assert seen == [1.0, 2.0, 3.0]
    assert agenda.done == 3


def test_one_instant_keeps_the_order_of_asking():
    agenda, seen = Agenda(), []
    for name in "zab":
        agenda.after(1.0, lambda name=name: seen.append(name))
    agenda.run_to(1.0)
    assert seen == ["z", "a", "b"]


def test_what_happens_may_ask_for_more_of_the_same_instant():
    agenda, seen = Agenda(), []
    agenda.at(1.0, lambda: agenda.after(0.0, lambda: seen.append("then")))
    agenda.run_to(1.0)
    assert seen == ["then"]


def test_the_past_happens_now():
    agenda, seen = Agenda(), []
    agenda.run_to(5.0)
    agenda.at(1.0, lambda: seen.append(agenda.now))
    agenda.run_to(5.0)
    assert seen == [5.0]
