import pytest

from shoal_protocol.errors import MalformedMessage
from shoal_protocol.ids import (
    digest_of,
    node_id_bytes,
    node_id_from_bytes,
    node_id_of,
    parse_cluster_id,
    parse_deployment_id,
    parse_node_id,
)


def test_a_node_id_follows_from_the_key_and_survives_the_wire():
    node = node_id_of(bytes(32))
    assert node == "aiil5jvbhf4x25fkk5spwitdtdyh6qwe"
    assert parse_node_id(node) == node
    assert node_id_from_bytes(node_id_bytes(node)) == node
    assert node_id_of(bytes(31) + b"\1") != node


def test_a_digest_is_32_bytes_of_blake2b():
    assert digest_of(b"").hex() == "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"
    assert digest_of(memoryview(b"shard")) == digest_of(b"shard")


@pytest.mark.parametrize("text", ["", "a" * 31, "a" * 33, "A" * 32, "a" * 31 + "1", "a" * 32 + "\n", "../" + "a" * 29])
def test_no_node_id(text):
    with pytest.raises(MalformedMessage):
        parse_node_id(text)


@pytest.mark.parametrize("text", ["", "0" * 31, "0" * 33, "G" * 32, "AB" * 16, "0" * 32 + "\n"])
def test_no_cluster_id(text):
    with pytest.raises(MalformedMessage):
        parse_cluster_id(text)


@pytest.mark.parametrize("text", ["", "-a", ".a", "A", "a/b", "a+", "a#", "a" * 65, "a\n", "é"])
def test_no_deployment_id(text):
    with pytest.raises(MalformedMessage):
        parse_deployment_id(text)


@pytest.mark.parametrize("text", ["a", "0", "smollm2-135m-instruct", "a.b_c-d", "a" * 64])
def test_a_deployment_id(text):
    assert parse_deployment_id(text) == text


@pytest.mark.parametrize("raw", [b"", bytes(19), bytes(21)])
def test_a_node_id_on_the_wire_is_20_bytes(raw):
    with pytest.raises(MalformedMessage):
        node_id_from_bytes(raw)
