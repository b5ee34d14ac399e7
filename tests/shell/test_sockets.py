import socket

import pytest

from shoal_agent.shell.sockets import AddressError, PortInUseError, listen, port_of


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_port_0_takes_a_free_one_and_tells_which(host):
    with listen(host, 0) as listener:
        assert port_of(listener) > 0
        with socket.create_connection((host, port_of(listener)), timeout=5):
            pass


def test_a_port_in_use_is_said_clearly():
    with listen("127.0.0.1", 0) as first, pytest.raises(PortInUseError, match=f"port {port_of(first)}"):
        listen("127.0.0.1", port_of(first))


def test_a_port_that_was_left_can_be_had_at_once():
    with listen("127.0.0.1", 0) as first:
        port = port_of(first)
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
    with listen("127.0.0.1", port) as second:
        assert port_of(second) == port


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "x" * 300])
def test_an_address_of_somebody_else_is_said_clearly(host):
    with pytest.raises(AddressError):
        listen(host, 0)
