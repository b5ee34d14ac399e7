from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_protocol.envelope import Envelope
from shoal_protocol.errors import LocalProtocolError, MalformedMessage
from shoal_protocol.ids import ClusterId, DeploymentId, Incarnation, NodeId, Sequence
from shoal_protocol.limits import HEARTBEAT_SHARDS_MAX, TOPIC_BYTES_MAX
from shoal_protocol.messages import Heartbeat
from shoal_protocol.topics import (
    TREE,
    DeathTopic,
    HeartbeatTopic,
    PhaseTopic,
    PlanTopic,
    RosterTopic,
    StateTopic,
    Topic,
    agent_filters,
    build,
    check_topic,
    parse,
    topic_for,
)
from tests.support.protocol import AGENT, CLUSTER, MESSAGES, TOY, WALL_MS, WITNESS, node_of, values

ME, OTHER = node_of(AGENT), node_of(WITNESS)
FIELDS = {
    "cluster": values(ClusterId),
    "node": values(NodeId),
    "deployment": values(DeploymentId),
    "shard": st.integers(0, HEARTBEAT_SHARDS_MAX - 1),
}
TOPICS = st.one_of([st.builds(cls, **{name: FIELDS[name] for name in cls.__slots__}) for cls in get_args(Topic)])


def envelope(message, sender=ME) -> Envelope:
    return Envelope(CLUSTER, sender, Incarnation(1), Sequence(1), 0, WALL_MS, message)


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
    assert build(StateTopic(CLUSTER, ME)) == f"shoal/1/{CLUSTER}/n/{ME}/state"
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
        f"shoal/1/{CLUSTER}/n/{ME}/state/x",
        f"shoal/1/{CLUSTER}/n/{ME}",
        f"shoal/1/{CLUSTER}/n/+/state",
        f"shoal/1/{CLUSTER}/n/{ME[:-1]}/state",
        f"shoal/1/{CLUSTER}/hb/00",
        f"shoal/1/{CLUSTER}/hb/-1",
        f"shoal/1/{CLUSTER}/hb/٣",
        f"shoal/1/{CLUSTER}/hb/{HEARTBEAT_SHARDS_MAX}",
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
        HeartbeatTopic(CLUSTER, HEARTBEAT_SHARDS_MAX),
        StateTopic(CLUSTER, "+"),
        PlanTopic(CLUSTER, "a/b"),
        RosterTopic("#"),
    ],
)
def test_our_own_field_out_of_range_is_our_mistake(topic):
    with pytest.raises(LocalProtocolError):
        build(topic)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_each_kind_belongs_on_one_topic_and_an_agent_hears_it(message):
    topic = topic_for(CLUSTER, ME, message)
    check_topic(parse(topic), envelope(message))
    assert sum(matches(topic_filter, topic) for topic_filter in agent_filters(CLUSTER)) == 1


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_other_topic_is_refused(message):
    others = [topic_for(CLUSTER, ME, other) for other in MESSAGES if type(other) is not type(message)]
    others += [topic_for(ClusterId("00" * 16), ME, message), build(RosterTopic(CLUSTER))]
    others += [build(HeartbeatTopic(CLUSTER, 1)), build(PlanTopic(CLUSTER, DeploymentId("another")))]
    for other in others:
        with pytest.raises(MalformedMessage, match="came on"):
            check_topic(parse(other), envelope(message))


def test_a_record_on_the_topic_of_another_node_is_refused():
    for topic in (StateTopic(CLUSTER, OTHER), DeathTopic(CLUSTER, OTHER)):
        with pytest.raises(MalformedMessage):
            check_topic(topic, envelope(MESSAGES[0]))
    with pytest.raises(MalformedMessage):
        check_topic(PhaseTopic(CLUSTER, TOY, OTHER), envelope(MESSAGES[4]))


def test_filters_name_the_cluster_and_nothing_wider():
    for topic_filter in agent_filters(CLUSTER):
        assert topic_filter.startswith(f"shoal/1/{CLUSTER}/")
        assert "#" not in topic_filter
        assert not matches(topic_filter, build(RosterTopic(CLUSTER)))
    assert any(matches(f, topic_for(CLUSTER, OTHER, Heartbeat(1, 1))) for f in agent_filters(CLUSTER))
