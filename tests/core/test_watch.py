from itertools import pairwise

import pytest

from shoal_agent.core.facts import Road, Standing, Symptom
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.sight import LIVING
from shoal_agent.core.watch import ROUND_S, TOMBSTONE_S
from shoal_protocol.headers import Ping
from shoal_protocol.ids import Incarnation, Instant, NodeId, Sequence
from shoal_protocol.messages import Accused, Verdict
from tests.support.watchers import Cluster, Watcher

SETTLE_S = 12.0
"""Everybody heard everybody, and every link was measured."""
STRANGER = NodeId("z" * 32)


def settled(count: int = 5, seed: int = 1, **options) -> Cluster:
    cluster = Cluster(count, seed=seed, **options)
    cluster.run(SETTLE_S)
    assert all(cluster.everybody_sees(name, Standing.ALIVE) for name in cluster.names)
    return cluster


def time_to_death(cluster: Cluster, victim: NodeId) -> float:
    took_s = cluster.run_until(lambda: cluster.everybody_sees(victim, Standing.DEAD))
    for other in cluster.others(victim):
        assert all(other.sees(node) is Standing.ALIVE for node in cluster.names if node not in (victim, other.name))
    return took_s


def reason(watcher: Watcher, node: NodeId, standing: Standing) -> Symptom:
    return next(change.why for _, change in reversed(watcher.changes) if (change.node, change.new) == (node, standing))


def news(cluster: Cluster, since: float) -> list[tuple[NodeId, NodeId, Standing]]:
    """Every change of standing from ``since`` on: who sees whom how."""
    return [
        (watcher.name, change.node, change.new)
        for watcher in cluster.nodes.values()
        for at, change in watcher.changes
        if at >= since
    ]


def accusing(message: Accused) -> NodeId:
    return message.target


# --- the budget ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [2, 3, 5, 7])
@pytest.mark.parametrize("wills", [True, False])
def test_a_killed_node_is_dead_everywhere_within_1_5_s(count, seed, wills):
    cluster = settled(count, seed)
    cluster.run(seed / 6)
    victim = cluster.names[0]
    cluster.kill(victim, wills=wills)
    assert time_to_death(cluster, victim) <= 1.5
    assert {reason(other, victim, Standing.DEAD) for other in cluster.others(victim)} == {Symptom.KILLED}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_a_stopped_node_is_dead_everywhere_within_3_s(count, seed):
    cluster = settled(count, seed)
    cluster.run(seed / 6)
    victim = cluster.names[0]
    cluster.pause(victim)
    assert 1.6 < time_to_death(cluster, victim) <= 3.0
    assert {reason(other, victim, Standing.DEAD) for other in cluster.others(victim)} == {Symptom.PAUSED}


@pytest.mark.parametrize("phase", range(12))
def test_a_pause_of_a_second_kills_nobody(phase):
    cluster = settled(5, phase)
    cluster.run(phase / 10)
    begun, victim = cluster.now, cluster.names[phase % 5]
    cluster.pause(victim)
    cluster.run(1.0)
    cluster.resume(victim)
    cluster.run(10.0)
    assert all(cluster.everybody_sees(name, Standing.ALIVE) for name in cluster.names)
    assert Standing.DEAD not in {new for _, _, new in news(cluster, begun)}


def test_a_machine_without_power_is_dead_within_3_s():
    cluster = settled(5)
    cluster.kill(cluster.names[2], machine=True)
    assert time_to_death(cluster, cluster.names[2]) <= 3.0


def test_two_of_five_killed_at_once():
    cluster = settled(5)
    for victim in cluster.names[:2]:
        cluster.kill(victim)
    cluster.run(1.5)
    assert all(cluster.everybody_sees(victim, Standing.DEAD) for victim in cluster.names[:2])


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
    cluster.set_online(victim, True)
    cluster.run(3.0)
    assert cluster.everybody_sees(victim, Standing.ALIVE)


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


# --- isolation ----------------------------------------------------------------------------------------------------


def test_who_is_cut_off_accuses_nobody():
    cluster = settled(5)
    lonely = cluster.nodes[cluster.names[0]]
    for other in cluster.names[1:]:
        cluster.sever(lonely.name, other)
    cluster.set_online(lonely.name, False)
    begun = cluster.now
    cluster.run(60.0)
    assert lonely.watch.isolated()
    assert lonely.watch.health > 0
    assert Standing.DEAD not in {new for who, _, new in news(cluster, begun) if who == lonely.name}
    assert len(lonely.accused) <= 2
    assert cluster.everybody_sees(lonely.name, Standing.DEAD)
    cluster.mend()
    cluster.set_online(lonely.name, True)
    cluster.run(15.0)
    assert not lonely.watch.isolated()
    assert all(cluster.everybody_sees(name, Standing.ALIVE) for name in cluster.names)


def test_the_minority_doubts_itself_and_the_majority_does_not():
    cluster = settled(5)
    few, many = cluster.names[:2], cluster.names[2:]
    for one in few:
        cluster.set_online(one, False)
        for other in many:
            cluster.sever(one, other)
    cluster.run(8.0)
    assert all(cluster.nodes[one].watch.isolated() for one in few)
    assert not any(cluster.nodes[other].watch.isolated() for other in many)
    assert all(cluster.nodes[other].sees(one) is Standing.DEAD for one in few for other in many)
    assert not any(cluster.nodes[one].sees(other) is Standing.DEAD for one in few for other in many)


def test_doubt_ends_when_most_of_the_cluster_really_is_gone():
    cluster = settled(5)
    for victim in cluster.names[:3]:
        cluster.pause(victim)
    cluster.run(8.0)
    left = [cluster.nodes[name] for name in cluster.names[3:]]
    assert all(watcher.watch.isolated() for watcher in left)
    cluster.run(60.0)
    assert not any(watcher.watch.isolated() for watcher in left)
    assert all(watcher.sees(victim) is Standing.DEAD for watcher in left for victim in cluster.names[:3])


def test_who_slept_blames_nobody():
    cluster = settled(5)
    sleeper = cluster.nodes[cluster.names[0]]
    cluster.pause(sleeper.name)
    cluster.run(8.0)
    assert cluster.everybody_sees(sleeper.name, Standing.DEAD)
    begun = cluster.now
    cluster.resume(sleeper.name)
    cluster.run(8.0)
    assert {node for _, node, _ in news(cluster, begun)} == {sleeper.name}
    assert all(cluster.everybody_sees(name, Standing.ALIVE) for name in cluster.names)
    assert not sleeper.accused
    assert not sleeper.watch.isolated()


# --- accusations --------------------------------------------------------------------------------------------------


def accuse(cluster: Cluster, liar: NodeId, target: NodeId, verdict: Verdict) -> None:
    said = cluster.nodes[target].voice.sequence
    cluster.say(cluster.nodes[liar], Accused(target, Incarnation(1), Sequence(said + 100), verdict, "killed"))


def test_a_liar_alone_makes_nobody_dead():
    cluster = settled(5)
    liar, target = cluster.names[:2]
    begun = cluster.now
    for index in range(200):
        accuse(cluster, liar, target, Verdict.DEAD if index % 2 else Verdict.SUSPECT)
        cluster.run(0.1)
    assert news(cluster, begun) == []
    assert cluster.nodes[target].refuted
    assert all(later - earlier >= 0.5 for earlier, later in pairwise(cluster.nodes[target].refuted))


def test_liars_cost_a_bounded_number_of_pings():
    cluster = settled(5)
    liar, target = cluster.names[:2]
    before = sum(watcher.said for watcher in cluster.nodes.values())
    for _ in range(500):
        accuse(cluster, liar, target, Verdict.SUSPECT)
        cluster.run(0.02)
    frames = sum(watcher.said for watcher in cluster.nodes.values()) - before
    assert frames < 10 * 4 * 4, "one ping a second and observer, its answer, and a word for the accused"


def test_all_the_others_together_kill_nobody_who_is_heard():
    """Not even a majority replaces what we hear ourselves."""
    cluster = settled(5)
    target, us = cluster.names[:2]
    for liar in cluster.names[2:]:
        accuse(cluster, liar, target, Verdict.DEAD)
    cluster.run(3.0)
    assert cluster.nodes[us].sees(target) is Standing.ALIVE


def test_an_accusation_hurries_a_suspicion():
    """Three observers agree sooner than one alone, whose peers did not look."""
    alone, together = settled(5, circle=True), settled(5, circle=True)
    for cluster in (alone, together):
        victim = cluster.names[0]
        cluster.pause(victim)
        if cluster is alone:
            for name in cluster.names[2:]:
                cluster.nodes[name].paused = True
    us = alone.names[1]
    quick = together.run_until(lambda: together.nodes[us].sees(victim) is Standing.DEAD)
    assert quick < 3.0
    alone.run(quick + 1.0)
    assert alone.nodes[us].sees(victim) is Standing.SUSPECT


def test_whoever_is_accused_answers_at_once():
    cluster = settled(5)
    liar, target = cluster.names[:2]
    accuse(cluster, liar, target, Verdict.SUSPECT)
    cluster.run(0.05)
    assert len(cluster.nodes[target].refuted) == 1


def test_those_who_reach_the_accused_tell_the_accuser():
    """Its beats and its link are lost for one observer only; the others speak for it."""
    cluster = settled(5)
    one, other = cluster.names[:2]
    cluster.sever(one, other)
    cluster.nodes[other].beats = False
    cluster.run(8.0)
    assert cluster.nodes[one].sees(other) is Standing.LINK_LOST
    assert not {Standing.DEAD} & {new for _, node, new in news(cluster, 0.0) if node == other}


# --- lives --------------------------------------------------------------------------------------------------------


def test_flapping_is_followed_without_a_storm():
    cluster = settled(5)
    victim = cluster.names[0]
    begun = cluster.now
    for _ in range(10):
        cluster.pause(victim)
        cluster.run(4.0)
        assert cluster.everybody_sees(victim, Standing.DEAD)
        cluster.resume(victim)
        cluster.run(4.0)
        assert cluster.everybody_sees(victim, Standing.ALIVE)
    others = {node for _, node, _ in news(cluster, begun)}
    assert others == {victim}
    assert all(len(watcher.accused) <= 2 * 10 for watcher in cluster.nodes.values())


def test_a_new_life_is_alive_at_once():
    cluster = settled(5)
    victim = cluster.names[0]
    cluster.kill(victim)
    time_to_death(cluster, victim)
    cluster.restart(victim)
    cluster.run(3.0)
    assert all(cluster.everybody_sees(name, Standing.ALIVE) for name in cluster.names)


def test_a_restart_quicker_than_the_verdict_is_no_death():
    cluster = settled(5)
    victim = cluster.names[0]
    begun = cluster.now
    cluster.kill(victim)
    cluster.run(0.1)
    reborn = cluster.restart(victim)
    cluster.beat(reborn)
    cluster.run(5.0)
    assert Standing.DEAD not in {new for _, node, new in news(cluster, begun) if node == victim}
    assert cluster.everybody_sees(victim, Standing.ALIVE)


def test_words_of_the_dead_that_were_under_way_mean_nothing():
    cluster = settled(5)
    victim = cluster.nodes[cluster.names[0]]
    cluster.kill(victim.name)
    cluster.run(0.03)
    for other in cluster.others(victim.name):
        said = Sequence(victim.voice.sequence + 1)
        other.watch.heard(victim.name, Incarnation(1), said, Road.BROKER, cluster.now, beat=True)
    assert time_to_death(cluster, victim.name) <= 1.5


def test_who_left_is_not_missed_and_comes_back_as_another_life():
    cluster = settled(5)
    gone = cluster.nodes[cluster.names[0]]
    gone.dead = True
    for other in cluster.others(gone.name):
        (change,) = other.watch.left(gone.name, cluster.now)
        assert (change.new, change.why) == (Standing.LEFT, Symptom.GOODBYE)
        stray = Sequence(gone.voice.sequence + 1)
        assert other.watch.heard(gone.name, Incarnation(1), stray, Road.BROKER, cluster.now, beat=True) == ()
    cluster.run(10.0)
    assert cluster.everybody_sees(gone.name, Standing.LEFT)
    assert not any(watcher.accused for watcher in cluster.nodes.values())
    cluster.restart(gone.name)
    cluster.run(3.0)
    assert cluster.everybody_sees(gone.name, Standing.ALIVE)


def test_who_left_a_record_only_is_dead_without_a_word():
    cluster = settled(3)
    for watcher in cluster.nodes.values():
        watcher.watch.watched([*cluster.names, cluster.names[0]], cluster.names, cluster.now)
    late = cluster.restart(cluster.names[0])
    cluster.nodes[cluster.names[1]].dead = True
    late.watch.heard(cluster.names[1], Incarnation(1), Sequence(5), Road.RELAYED, cluster.now, beat=False)
    cluster.run(0.5)
    assert late.sees(cluster.names[1]) is Standing.UNKNOWN
    cluster.run(5.0)
    assert late.sees(cluster.names[1]) is Standing.DEAD
    assert not late.accused
    assert not late.watch.isolated()


def test_a_relayed_word_makes_nobody_alive():
    cluster = settled(3)
    victim = cluster.names[0]
    cluster.kill(victim)
    time_to_death(cluster, victim)
    for other in cluster.others(victim):
        assert other.watch.heard(victim, Incarnation(1), Sequence(9999), Road.RELAYED, cluster.now, beat=False) == ()
    cluster.run(5.0)
    assert cluster.everybody_sees(victim, Standing.DEAD)


# --- housekeeping -------------------------------------------------------------------------------------------------


def test_links_are_measured_soon_and_then_rarely():
    cluster = settled(5)
    for watcher in cluster.nodes.values():
        for node in cluster.names:
            if node != watcher.name:
                assert 2_000 <= watcher.watch.rtt_us(node) <= 8_000
    before = sum(watcher.said for watcher in cluster.nodes.values())
    cluster.run(10 * ROUND_S)
    frames = sum(watcher.said for watcher in cluster.nodes.values()) - before
    assert frames == pytest.approx(5 * 4 * 10 * 2, rel=0.1)


def test_outside_the_circle_nobody_is_pinged_while_all_is_well():
    cluster = settled(5, circle=False)
    assert sum(watcher.said for watcher in cluster.nodes.values()) == 0
    cluster.pause(cluster.names[0])
    assert time_to_death(cluster, cluster.names[0]) <= 3.0


def test_tombstones_last_a_day():
    cluster = settled(3)
    us, victim = cluster.nodes[cluster.names[1]], cluster.names[0]
    cluster.kill(victim)
    time_to_death(cluster, victim)
    us.watch.watched([], [], cluster.now)
    assert us.sees(victim) is Standing.DEAD
    watch, out = us.watch, Outbox(us.name)
    alarms = us.tables.timers.due(Instant(cluster.now + TOMBSTONE_S - 10))
    for alarm in alarms:
        watch.rang(alarm, Instant(cluster.now + TOMBSTONE_S - 10), out)
    assert us.sees(victim) is Standing.DEAD
    for alarm in us.tables.timers.due(Instant(cluster.now + TOMBSTONE_S + 60)):
        watch.rang(alarm, Instant(cluster.now + TOMBSTONE_S + 60), out)
    assert us.sees(victim) is Standing.UNKNOWN


def test_who_is_watched_no_more_is_forgotten():
    cluster = settled(3)
    us = cluster.nodes[cluster.names[1]]
    us.watch.watched([cluster.names[2]], [], cluster.now)
    assert us.sees(cluster.names[0]) is Standing.UNKNOWN
    cluster.pause(cluster.names[0])
    cluster.run(5.0)
    assert us.sees(cluster.names[0]) is Standing.UNKNOWN
    assert us.sees(cluster.names[2]) is Standing.ALIVE


def test_every_change_is_a_line_of_the_story_and_a_standing_in_the_table():
    cluster = settled(5)
    victim = cluster.names[0]
    cluster.pause(victim)
    time_to_death(cluster, victim)
    for other in cluster.others(victim):
        told = [entry.text for entry in other.tables.story.about(victim)]
        assert "alive -> suspect (paused): silent " in told[-2]
        assert "phi " in told[-2]
        assert "suspect -> dead (paused): silent " in told[-1]
        assert other.tables.membership.standing(victim) is Standing.DEAD


def test_a_stranger_pings_and_is_answered():
    cluster = settled(2)
    us = cluster.nodes[cluster.names[0]]
    out = Outbox(us.name)
    assert us.watch.frame(STRANGER, Ping(7), cluster.now, out) == ()
    assert [(effect.peer, effect.header.nonce) for effect in out.effects] == [(STRANGER, 7)]


def test_a_node_is_alive_to_itself():
    cluster = settled(2)
    us = cluster.nodes[cluster.names[0]]
    assert us.sees(us.name) is Standing.ALIVE
    assert us.watch.alive(us.name)
    assert us.name not in us.watch.standings()
