import pytest

from shoal_agent.core.facts import Road, Standing, Symptom
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.watch import ROUND_S, TOMBSTONE_S
from shoal_protocol.headers import Ping
from shoal_protocol.ids import Incarnation, Instant, NodeId, Sequence
from tests.support.watchers import Cluster, Watcher, news, reason, settled, time_to_death

STRANGER = NodeId("z" * 32)


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


@pytest.mark.parametrize("seed", range(4))
def test_a_refusal_is_quick_though_the_listener_dies_last(seed):
    cluster = settled(5, seed)
    cluster.kill(cluster.names[0])
    assert time_to_death(cluster, cluster.names[0]) <= 0.5


def test_two_of_five_killed_at_once():
    cluster = settled(5)
    for victim in cluster.names[:2]:
        cluster.kill(victim)
    cluster.run(1.5)
    assert all(cluster.everybody_sees(victim, Standing.DEAD) for victim in cluster.names[:2])


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
    cluster.run(0.15)
    for other in cluster.others(victim.name):
        said = Sequence(victim.voice.sequence + 1)
        other.watch.heard(victim.name, Incarnation(1), said, Road.BROKER, cluster.now, beat=True)
        assert other.sees(victim.name) is Standing.SUSPECT
    assert time_to_death(cluster, victim.name) <= 0.5


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


@pytest.mark.parametrize("refuses", [True, False])
def test_who_left_a_record_only_is_dead_without_a_word(refuses):
    cluster = settled(3)
    for watcher in cluster.nodes.values():
        watcher.watch.watched([*cluster.names, cluster.names[0]], cluster.names, cluster.now)
    late = cluster.restart(cluster.names[0])
    cluster.kill(cluster.names[1], machine=not refuses)
    late.watch.heard(cluster.names[1], Incarnation(1), Sequence(5), Road.RELAYED, cluster.now, beat=False)
    cluster.run(0.5)
    assert late.sees(cluster.names[1]) is (Standing.DEAD if refuses else Standing.UNKNOWN)
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


def test_a_relayed_word_of_a_new_life_makes_us_look():
    cluster = settled(3)
    us, victim = cluster.nodes[cluster.names[1]], cluster.names[0]
    cluster.kill(victim)
    time_to_death(cluster, victim)
    cluster.restart(victim).beats = False
    us.watch.heard(victim, Incarnation(2), Sequence(1), Road.RELAYED, cluster.now, beat=False)
    cluster.act(us, lambda _: ())
    cluster.run(0.05)
    assert us.sees(victim) is Standing.ALIVE


def test_who_dials_us_is_asked():
    cluster = settled(3)
    us, victim = cluster.nodes[cluster.names[1]], cluster.names[0]
    cluster.kill(victim)
    time_to_death(cluster, victim)
    cluster.restart(victim).beats = False
    cluster.up(us, victim)
    cluster.run(0.05)
    assert us.sees(victim) is Standing.ALIVE


def doubts(cluster: Cluster, us: Watcher, node: NodeId) -> bool:
    found = []
    cluster.act(us, lambda out: found.append(us.watch.doubt(node, cluster.now, out)))
    return found[0]


def test_who_is_waited_for_in_vain_is_asked_and_found_out_before_it_is_suspected():
    cluster = settled(5)
    us, paused, well = cluster.nodes[cluster.names[0]], cluster.names[1], cluster.names[2]
    assert not doubts(cluster, us, us.name)
    cluster.run(0.5)
    cluster.pause(paused)
    assert not doubts(cluster, us, paused), "it was not asked yet"
    assert not doubts(cluster, us, well)
    cluster.run(0.55)
    assert doubts(cluster, us, paused)
    assert not doubts(cluster, us, well)
    assert us.sees(paused) is Standing.ALIVE, "its beats are not overdue"
    cluster.resume(paused)
    cluster.run(0.1)
    assert not doubts(cluster, us, paused)


# --- our own sleep ------------------------------------------------------------------------------------------------


def hint(cluster: Cluster, us: Watcher, node: NodeId) -> None:
    cluster.act(us, lambda out: us.watch.will(node, "a", cluster.now, out))


def test_an_answer_that_waits_in_a_socket_counts():
    cluster = settled(5)
    us, other = cluster.nodes[cluster.names[0]], cluster.names[1]
    hint(cluster, us, other)
    cluster.pause(us.name)
    cluster.run(5.0)
    begun = cluster.now
    cluster.resume(us.name)
    assert us.watch.health > 0
    cluster.run(3.0)
    assert [line for line in news(cluster, begun) if line[0] == us.name] == []


def test_a_suspicion_does_not_end_in_our_sleep():
    cluster = settled(5)
    us, other = cluster.nodes[cluster.names[0]], cluster.names[1]
    cluster.pause(other)
    cluster.run_until(lambda: us.sees(other) is Standing.SUSPECT)
    cluster.resume(other)
    cluster.pause(us.name)
    cluster.run(5.0)
    cluster.resume(us.name)
    cluster.run(3.0)
    assert us.when(other, Standing.DEAD) is None
    assert us.sees(other) is Standing.ALIVE


def test_who_wakes_up_reads_first_and_asks_then():
    cluster = settled(5)
    us = cluster.nodes[cluster.names[0]]
    cluster.pause(us.name)
    cluster.run(5.0)
    asked = [effect for source, effect in cluster.frames if source == us.name and isinstance(effect.header, Ping)]
    cluster.resume(us.name)
    cluster.run(3.0)
    asks = [effect for source, effect in cluster.frames if source == us.name and isinstance(effect.header, Ping)]
    assert len(asks) - len(asked) <= 1, "the link whose turn it is"


# --- housekeeping -------------------------------------------------------------------------------------------------


def test_links_are_measured_soon_and_then_rarely():
    cluster = settled(5)
    for watcher in cluster.nodes.values():
        for node in cluster.names:
            if node != watcher.name:
                assert 2_000 <= watcher.watch.rtt_us(node) <= 8_000
        assert [link.peer for link in watcher.tables.links] == sorted(set(cluster.names) - {watcher.name})
    before = sum(watcher.said for watcher in cluster.nodes.values())
    cluster.run(10 * ROUND_S)
    frames = sum(watcher.said for watcher in cluster.nodes.values()) - before
    assert frames == pytest.approx(5 * 4 * 10 * 2, rel=0.1)


def test_a_link_that_takes_another_way_is_measured_anew_and_told_apart():
    cluster = settled(3)
    us, other = (cluster.nodes[name] for name in cluster.names[:2])
    for relayed in (True, False):
        cluster.act(us, lambda _, relayed=relayed: us.watch.relayed(other.name, cluster.now, relayed=relayed))
        assert us.watch.rtt_us(other.name) is None, "what was measured was another link"
        cluster.run(2.0)
        assert {link.peer: link.relayed for link in us.tables.links} == {
            name: relayed and name == other.name for name in cluster.names if name != us.name
        }
        assert us.sees(other.name) is Standing.ALIVE


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


def test_the_dead_take_nobodys_turn(monkeypatch):
    """Only so many are asked at once; whoever was being asked when it died is not asked any more."""
    monkeypatch.setattr("shoal_agent.core.asking.ASKING_MAX", 2)
    cluster = settled(7)
    for victim in cluster.names[:3]:
        cluster.pause(victim)
        cluster.run(5.0)
        assert cluster.everybody_sees(victim, Standing.DEAD)


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
