"""Slow nodes, dead links and lost brokers, told apart by asking."""

from dataclasses import replace

import pytest

from shoal_agent.core.facts import Road, Standing
from shoal_agent.core.sight import LIVING
from shoal_agent.core.watch import ROUND_S
from shoal_protocol.headers import PingReported, PingRequested
from shoal_protocol.ids import Incarnation, NodeId
from tests.support.watchers import news, settled, time_to_death

# --- slow, and links ----------------------------------------------------------------------------------------------


def test_who_answers_late_is_slow_and_not_dead():
    cluster = settled(5)
    victim = cluster.nodes[cluster.names[0]]
    begun = cluster.now
    victim.delay_s, victim.beats = 0.8, False
    cluster.run(20.0)
    assert cluster.everybody_sees(victim.name, Standing.SLOW)
    assert Standing.DEAD not in {new for _, node, new in news(cluster, begun) if node == victim.name}
    victim.delay_s, victim.beats = 0.0, True
    cluster.run(6.0)
    assert cluster.everybody_sees(victim.name, Standing.ALIVE)


def test_a_slow_node_does_not_flap():
    cluster = settled(5)
    victim = cluster.nodes[cluster.names[0]]
    victim.delay_s, victim.beats = 0.8, False
    cluster.run(10.0)
    begun = cluster.now
    cluster.run(30.0)
    assert news(cluster, begun) == []


def test_a_lost_ping_is_repeated_before_it_is_judged():
    cluster = settled(5)
    us, other = cluster.nodes[cluster.names[0]], cluster.names[1]
    cluster.sever(us.name, other)
    begun = cluster.now
    cluster.act(us, lambda out: us.watch.will(other, "a", cluster.now, out))
    cluster.run(0.1)
    cluster.mend()
    cluster.run(0.3)
    assert us.watch._sights[other].answered_at > begun
    assert us.watch._sights[other].failures == 0


def test_the_helped_are_told_in_either_case():
    cluster = settled(5)
    asker, helper, target = cluster.names[:3]
    us = cluster.nodes[helper]
    for name, paused in ((target, False), (target, True), (NodeId("z" * 32), False)):
        cluster.nodes[target].paused = paused
        if name not in cluster.nodes:
            cluster.nodes[name] = replace(cluster.nodes[target], name=name, paused=True)
        request = PingRequested(77, name)
        before = len(cluster.frames)
        cluster.act(us, lambda out, request=request: us.watch.frame(asker, request, cluster.now, out))
        cluster.run(0.6)
        told = [e.header for s, e in cluster.frames[before:] if (s, e.peer) == (helper, asker)]
        assert PingReported(77, name, reached=name == target and not paused) in told


@pytest.mark.parametrize("both", [True, False])
def test_a_dead_link_is_not_a_dead_node(both):
    cluster = settled(5)
    one, other = cluster.names[:2]
    begun = cluster.now
    cluster.sever(one, other, both=both)
    cluster.run(ROUND_S + 10.0)
    assert cluster.nodes[one].sees(other) is Standing.LINK_LOST
    assert cluster.nodes[other].sees(one) is Standing.LINK_LOST
    assert {new for _, _, new in news(cluster, begun)} == {Standing.LINK_LOST}
    cluster.mend()
    cluster.run(12.0)
    assert cluster.everybody_sees(one, Standing.ALIVE)
    assert cluster.everybody_sees(other, Standing.ALIVE)


def test_others_vouch_for_whom_we_do_not_hear():
    """No broker, and no link from one to another: only others can tell that it lives."""
    cluster = settled(5)
    one, other = cluster.names[:2]
    for name in cluster.names:
        cluster.set_online(name, False)
    cluster.sever(one, other)
    begun = cluster.now
    cluster.run(14.0)
    assert cluster.nodes[one].sees(other) is Standing.LINK_LOST
    assert cluster.nodes[other].sees(one) is Standing.LINK_LOST
    assert Standing.DEAD not in {new for _, _, new in news(cluster, begun)}


def test_hearsay_lasts_while_the_node_itself_says_something_new():
    cluster = settled(5)
    one, other = cluster.names[:2]
    for name in cluster.names:
        cluster.set_online(name, False)
    cluster.sever(one, other)
    for _ in range(6):
        cluster.run(8.0)
        for source, target in ((one, other), (other, one)):
            said = cluster.nodes[source].voice.sequence
            watch = cluster.nodes[target].watch
            watch.heard(source, Incarnation(1), said, Road.RELAYED, cluster.now, beat=False)
    assert cluster.nodes[one].sees(other) is Standing.LINK_LOST
    cluster.run(25.0)
    assert cluster.nodes[one].sees(other) is Standing.DEAD


def test_a_firewall_that_refuses_is_no_death():
    cluster = settled(5)
    one, other = cluster.names[:2]
    cluster.rejects[one, other] = True
    begun = cluster.now
    cluster.run(ROUND_S + 10.0)
    seen = [new for who, node, new in news(cluster, begun) if (who, node) == (one, other)]
    assert Standing.DEAD not in seen
    assert cluster.nodes[one].sees(other) in LIVING
    begun = cluster.now
    cluster.run(30.0)
    assert Standing.SUSPECT not in {new for _, _, new in news(cluster, begun)}


# --- brokers ------------------------------------------------------------------------------------------------------


def test_who_lost_its_brokers_is_not_dead():
    cluster = settled(5)
    victim = cluster.names[0]
    cluster.set_online(victim, False)
    begun = cluster.now
    cluster.run(10.0)
    assert cluster.everybody_sees(victim, Standing.MQTT_LOST)
    assert not {Standing.SUSPECT, Standing.DEAD} & {new for _, _, new in news(cluster, begun)}
    assert all(cluster.nodes[victim].sees(node) is Standing.ALIVE for node in cluster.names)
    begun = cluster.now
    cluster.set_online(victim, True)
    cluster.run(3.0)
    assert cluster.everybody_sees(victim, Standing.ALIVE)
    assert Standing.MQTT_LOST not in {new for _, _, new in news(cluster, begun)}, "it blames nobody for its own gap"


def test_whose_beats_do_not_even_come_by_frames_is_pinged_instead():
    cluster = settled(5)
    victim = cluster.nodes[cluster.names[0]]
    victim.beats = False
    cluster.run(10.0)
    assert cluster.everybody_sees(victim.name, Standing.MQTT_LOST)
    begun, sent = cluster.now, sum(other.said for other in cluster.others(victim.name))
    cluster.run(10.0)
    assert news(cluster, begun) == []
    assert sum(other.said for other in cluster.others(victim.name)) - sent < 4 * 10 * 2
    cluster.kill(victim.name)
    assert time_to_death(cluster, victim.name) <= 1.5


def test_a_frozen_broker_disturbs_nobody():
    cluster = settled(5)
    begun = cluster.now
    cluster.frozen = True
    cluster.run(8.0)
    assert {new for _, _, new in news(cluster, begun)} == {Standing.MQTT_LOST}
    assert not any(watcher.watch.isolated() for watcher in cluster.nodes.values())
    assert not any(watcher.accused for watcher in cluster.nodes.values())


def test_a_death_is_found_without_any_broker():
    cluster = settled(5)
    for name in cluster.names:
        cluster.set_online(name, False)
    cluster.run(5.0)
    assert all(cluster.everybody_sees(name, Standing.ALIVE) for name in cluster.names)
    cluster.pause(cluster.names[0])
    assert time_to_death(cluster, cluster.names[0]) <= 3.0
    cluster.kill(cluster.names[1])
    cluster.run(1.5)
    assert all(other.sees(cluster.names[1]) is Standing.DEAD for other in cluster.others(cluster.names[1])[1:])
