from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_protocol.envelope import Envelope
from shoal_protocol.errors import LocalProtocolError, MalformedMessage
from shoal_protocol.ids import ClusterId, DeploymentId, Incarnation, NodeId, Sequence, node_id_of
from shoal_protocol.light import DigestTold
from shoal_protocol.limits import SENDERS_MAX, SHARD_NODES, SHARDS_MAX, TOPIC_BYTES_MAX
from shoal_protocol.messages import Ack, Heartbeat, LinkDeath, NodeState, Syn, SynAck
from shoal_protocol.roster import Member, Role
from shoal_protocol.sealing import Ed25519Sealer
from shoal_protocol.topics import (
    TREE,
    AgreementTopic,
    AntiEntropyTopic,
    DeathTopic,
    HeartbeatTopic,
    PhaseTopic,
    PlanTopic,
    RelayTopic,
    RosterTopic,
    StateTopic,
    Topic,
    agent_filters,
    build,
    check_topic,
    home_shard,
    parse,
    relay_filter,
    shard_count,
    shard_of,
    topic_for,
)
from tests.support.protocol import (
    AGENT,
    CLUSTER,
    MEMBERS,
    MESSAGES,
    TOY,
    WALL_MS,
    WITNESS,
    node_of,
    trusted_roster,
    values,
)

ME, OTHER = node_of(AGENT), node_of(WITNESS)
FIELDS = {
    "cluster": values(ClusterId),
    "node": values(NodeId),
    "source": values(NodeId),
    "deployment": values(DeploymentId),
    "shard": st.integers(0, SHARDS_MAX - 1),
}
TOPICS = st.one_of([st.builds(cls, **{name: FIELDS[name] for name in cls.__slots__}) for cls in get_args(Topic)])


def envelope(message, sender=ME) -> Envelope:
    return Envelope(CLUSTER, sender, Incarnation(1), Sequence(1), 0, WALL_MS, message)


def kind(message) -> str:
    return type(message).__name__


def heard(topic: str, node: NodeId, shards: tuple[int, ...] | None) -> int:
    """By how many of its filters ``node`` hears ``topic``."""
    return sum(matches(topic_filter, topic) for topic_filter in agent_filters(CLUSTER, node, shards))


def matches(topic_filter: str, topic: str) -> bool:
    levels, names = topic_filter.split("/"), topic.split("/")
    return len(levels) == len(names) and all(a in ("+", b) for a, b in zip(levels, names, strict=True))


@given(TOPICS)
def test_building_and_parsing_are_inverse(topic):
    text = build(topic)
    assert parse(text) == topic
    assert len(text) <= TOPIC_BYTES_MAX
    assert not set(text) & set("+#\0 $")


@given(st.text(max_size=40) | st.from_regex(r"shoal/1/[0-9a-f]{32}/(n|d|hb|r|ae)/[a-z0-9/]{0,80}", fullmatch=True))
def test_whatever_parses_is_built_back_to_the_letter(text):
    try:
        topic = parse(text)
    except MalformedMessage:
        return
    assert build(topic) == text


def test_every_topic_has_its_place():
    assert set(TREE) == set(get_args(Topic))
    assert build(StateTopic(CLUSTER, 7, ME)) == f"shoal/1/{CLUSTER}/n/7/{ME}/state"
    assert build(PhaseTopic(CLUSTER, TOY, ME)) == f"shoal/1/{CLUSTER}/d/{TOY}/s/{ME}"
    assert build(PlanTopic(CLUSTER, TOY)) == f"shoal/1/{CLUSTER}/d/{TOY}/cert"
    assert build(RosterTopic(CLUSTER)) == f"shoal/1/{CLUSTER}/roster"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shoal",
        f"shoal/2/{CLUSTER}/roster",
        f"shoal/1/{CLUSTER}/roster/",
        f"/shoal/1/{CLUSTER}/roster",
        f"shoal/1/{CLUSTER}/roster\n",
        f"shoal/1/{CLUSTER.upper()}/roster",
        f"shoal/1/{CLUSTER}/n/{ME}/state",
        f"shoal/1/{CLUSTER}/n/0/{ME}/state/x",
        f"shoal/1/{CLUSTER}/n/{ME}",
        f"shoal/1/{CLUSTER}/n/0/+/state",
        f"shoal/1/{CLUSTER}/n/0/{ME[:-1]}/state",
        f"shoal/1/{CLUSTER}/hb/00",
        f"shoal/1/{CLUSTER}/hb/-1",
        f"shoal/1/{CLUSTER}/hb/٣",
        f"shoal/1/{CLUSTER}/hb/{SHARDS_MAX}",
        f"shoal/1/{CLUSTER}/d/UP/cert",
        f"shoal/1/{CLUSTER}/d//cert",
        "shoal/1/" + "x" * 1000,
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(MalformedMessage):
        parse(text)


@pytest.mark.parametrize(
    "topic",
    [
        HeartbeatTopic(CLUSTER, SHARDS_MAX),
        StateTopic(CLUSTER, 0, "+"),
        PlanTopic(CLUSTER, "a/b"),
        RosterTopic("#"),
    ],
)
def test_our_own_field_out_of_range_is_our_mistake(topic):
    with pytest.raises(LocalProtocolError):
        build(topic)


@pytest.mark.parametrize("message", MESSAGES, ids=kind)
@pytest.mark.parametrize("shards", [None, (0, 3), (3,)])
def test_each_kind_belongs_on_one_topic_of_a_share_and_who_should_hears_it(message, shards):
    topic = topic_for(CLUSTER, ME, message, 3)
    check_topic(parse(topic), envelope(message))
    assert heard(topic, getattr(message, "to", OTHER), shards) == 1


def test_digests_and_deltas_are_heard_by_the_one_they_are_for():
    for message in (message for message in MESSAGES if isinstance(message, Syn | SynAck | Ack)):
        topic = topic_for(CLUSTER, ME, message)
        assert parse(topic) == AntiEntropyTopic(CLUSTER, message.to)
        assert heard(topic, message.to, (0,)) == 1
        assert heard(topic, ME, None) == 0


def test_what_a_node_says_of_itself_is_not_heard_in_another_share():
    of_itself = [message for message in MESSAGES if isinstance(message, NodeState | Heartbeat | LinkDeath | DigestTold)]
    assert len(of_itself) == 4
    for message in MESSAGES:
        hearers = heard(topic_for(CLUSTER, ME, message, 3), getattr(message, "to", OTHER), (0, 2, 30))
        assert hearers == (message not in of_itself)


@pytest.mark.parametrize("message", MESSAGES, ids=kind)
def test_every_other_topic_is_refused(message):
    here = topic_for(CLUSTER, ME, message)
    others = [topic_for(CLUSTER, ME, other) for other in MESSAGES]
    others += [topic_for(ClusterId("00" * 16), ME, message), build(RosterTopic(CLUSTER))]
    others += [build(PlanTopic(CLUSTER, DeploymentId("another"))), build(AntiEntropyTopic(CLUSTER, ME))]
    others += [build(AgreementTopic(CLUSTER, DeploymentId("another")))]
    for other in others:
        if other != here:
            with pytest.raises(MalformedMessage, match="came on"):
                check_topic(parse(other), envelope(message))


def test_the_share_alone_is_not_judged():
    """It follows from a roster, and two rosters one version apart may differ in it."""
    for message in MESSAGES[:3]:
        for shard in (0, 1, SHARDS_MAX - 1):
            check_topic(parse(topic_for(CLUSTER, ME, message, shard)), envelope(message))


def test_a_record_on_the_topic_of_another_node_is_refused():
    for topic in (StateTopic(CLUSTER, 0, OTHER), DeathTopic(CLUSTER, 0, OTHER)):
        with pytest.raises(MalformedMessage):
            check_topic(topic, envelope(MESSAGES[0]))
    with pytest.raises(MalformedMessage):
        check_topic(PhaseTopic(CLUSTER, TOY, OTHER), envelope(MESSAGES[4]))


@pytest.mark.parametrize("shards", [None, (), (0,), (5, 1, 5)])
def test_filters_name_the_cluster_and_nothing_wider_or_twice(shards):
    filters = agent_filters(CLUSTER, ME, shards)
    assert len(set(filters)) == len(filters)
    for topic_filter in filters:
        assert topic_filter.startswith(f"shoal/1/{CLUSTER}/")
        assert "#" not in topic_filter
        assert not matches(topic_filter, build(RosterTopic(CLUSTER)))
    assert filters == agent_filters(CLUSTER, ME, shards and tuple(reversed(shards)))


def test_a_relay_inbox_is_one_nodes_and_tells_who_wrote():
    assert matches(relay_filter(CLUSTER, ME), build(RelayTopic(CLUSTER, ME, OTHER)))
    assert not matches(relay_filter(CLUSTER, ME), build(RelayTopic(CLUSTER, OTHER, ME)))
    assert heard(build(RelayTopic(CLUSTER, ME, OTHER)), ME, None) == 0, "who does not ask for it is not bothered"


def test_there_is_one_share_until_there_are_enough_for_two():
    assert [shard_count(agents) for agents in (0, 1, SHARD_NODES, 2 * SHARD_NODES - 1, 2 * SHARD_NODES)] == [
        1,
        1,
        1,
        1,
        2,
    ]
    assert shard_count(SENDERS_MAX) <= SHARDS_MAX


KNOWN_SHARES = [0, 1, 1, 6, 0, 4, 2, 2, 4, 6, 4, 5]
NODES = [node_id_of(index.to_bytes(32)) for index in range(2000)]


def test_the_shares_of_known_nodes_never_change():
    """Every agent of a cluster must find the same one, whatever it is written in."""
    assert [shard_of(node, 7) for node in NODES[:12]] == KNOWN_SHARES


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_shares_are_about_equal_and_all_used(count):
    sizes = Counter(shard_of(node, count) for node in NODES)
    assert sorted(sizes) == list(range(count))
    assert max(sizes.values()) < 2000 / count + 5 * (2000 / count) ** 0.5 + 1


@pytest.mark.parametrize("count", [1, 7, 40])
def test_one_share_more_moves_only_those_who_go_there(count):
    moved = [node for node in NODES if shard_of(node, count) != shard_of(node, count + 1)]
    assert {shard_of(node, count + 1) for node in moved} == {count}
    assert len(moved) < 2 * 2000 / (count + 1)


def test_a_node_finds_its_share_in_the_roster():
    assert home_shard(ME, trusted_roster()) == 0
    keys = [Ed25519Sealer(index.to_bytes(32)) for index in range(3 * SHARD_NODES)]
    crowd = tuple(Member(node_of(key), key.public_key, (Role.AGENT,), "", b"") for key in keys)
    roster = trusted_roster((*crowd, *MEMBERS[1:]))
    assert roster.agent_count == 3 * SHARD_NODES
    assert [home_shard(member.node, roster) for member in crowd] == [shard_of(member.node, 3) for member in crowd]
