"""What is believed of accusations, and when nobody is accused."""

from itertools import pairwise

from shoal_agent.core.facts import Standing
from shoal_agent.core.outbox import Outbox
from shoal_protocol.headers import PingReported
from shoal_protocol.ids import Incarnation, NodeId, Sequence
from shoal_protocol.messages import Accused, Verdict
from tests.support.watchers import Cluster, news, settled

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


def test_what_helpers_report_counts_as_their_accusation():
    cluster = settled(5)
    us, victim = cluster.nodes[cluster.names[1]], cluster.names[0]
    for name in cluster.names:
        cluster.nodes[name].paused = name != us.name
    cluster.frozen = True
    cluster.run_until(lambda: us.sees(victim) is Standing.SUSPECT)
    for helper in cluster.names[2:4]:
        report = PingReported(0, victim, reached=False)
        cluster.act(us, lambda out, helper=helper, report=report: us.watch.frame(helper, report, cluster.now, out))
    (suspicion,) = [s for node, s in us.watch._verdicts._suspicions.items() if node == victim]
    assert sorted(suspicion.accusers) == sorted(cluster.names[2:4])


def test_a_refusal_hurries_a_suspicion_that_runs():
    """And it is believed even by who doubts itself: its link works, or nobody could refuse."""
    cluster = settled(5)
    us, victim = cluster.nodes[cluster.names[1]], cluster.names[0]
    for name in cluster.names:
        cluster.nodes[name].paused = name != us.name
    cluster.run_until(lambda: us.sees(victim) is Standing.SUSPECT)
    cluster.kill(victim)
    cluster.run(2.5)
    assert us.watch.isolated()
    assert us.sees(victim) is Standing.DEAD


def test_old_answers_about_others_count_for_nothing():
    cluster = settled(5)
    us, victim = cluster.nodes[cluster.names[1]], cluster.names[0]
    cluster.pause(victim)
    cluster.run_until(lambda: us.sees(victim) is Standing.SUSPECT)
    nonce = us.watch._sights[victim].series
    for stale in (nonce - 1, nonce + 1000):
        report = PingReported(stale, victim, reached=True)
        assert us.watch.frame(cluster.names[2], report, cluster.now, Outbox(us.name)) == ()
    assert us.watch.frame(victim, PingReported(0, victim, reached=True), cluster.now, Outbox(us.name)) == ()
    assert us.sees(victim) is Standing.SUSPECT


def test_whoever_reaches_the_accused_says_so_to_the_accuser():
    cluster = settled(5)
    liar, target = cluster.names[:2]
    accuse(cluster, liar, target, Verdict.SUSPECT)
    cluster.run(0.1)
    told = {
        source
        for source, effect in cluster.frames
        if effect.peer == liar and effect.header == PingReported(0, target, reached=True)
    }
    assert told
    assert told <= set(cluster.names[2:])


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
    assert lonely.tables.isolated
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
