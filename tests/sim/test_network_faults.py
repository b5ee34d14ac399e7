from random import Random

from shoal_agent.sim import network_faults
from shoal_agent.sim.weather import Weather
from tests.support.sim import judged


def reached(world):
    """Who reaches which broker, once silent connections were given up."""
    world.run(8.0)
    return {
        broker: [name for name in world.names if world.brokers.connected(broker, name)]
        for broker in world.brokers.names
    }


def test_an_island_has_its_own_brokers_and_links():
    world, judge = judged(4, 2)
    end = network_faults.island(world, judge, Random(2))
    blocked = set(world.links._blocked)
    group = [name for name in world.names if any(one == name for one, _ in blocked)]
    assert blocked
    assert all((other, one) in blocked for one, other in blocked)
    there = reached(world)
    sides = [set(nodes) for nodes in there.values()]
    assert all(side and side != set(world.names) for side in sides)
    for side in sides:
        assert not any(one in side and other in side for one, other in blocked)
    end()
    assert not world.links._blocked
    assert all(nodes == world.names for nodes in reached(world).values())
    assert group


def test_no_broker_is_left_and_then_all_are():
    world, judge = judged(3, 2)
    end = network_faults.brokers_dead(world, judge, Random(1))
    assert not any(reached(world).values())
    end()
    assert all(nodes == world.names for nodes in reached(world).values())


def test_a_link_flaps_and_stays_up_in_the_end():
    world, judge = judged(3, 2)
    end = network_faults.flapping_link(world, judge, Random(1))
    seen = set()
    for _ in range(100):
        world.run(0.1)
        seen.add(bool(world.links._blocked))
    assert seen == {True, False}
    end()
    world.run(5.0)
    assert not world.links._blocked


def test_weather_is_bad_and_then_good():
    world, judge = judged(3, 2)
    end = network_faults.weather(message_loss=0.4, clog_s=1.0)(world, judge, Random(1))
    assert 0.0 < world.weather.message_loss <= 0.4
    assert 0.0 < world.weather.clog_s <= 1.0
    end()
    assert world.weather == Weather()
