import dataclasses
import ssl

import pytest

from shoal_agent.errors import ConfigError
from shoal_agent.shell.tls import data_tls
from tests.support.links import person, roster_of, tls_of


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return [person(tmp_path_factory.mktemp("people"), number) for number in (1, 2, 3)]


def shake(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[bytes, bytes, str]:
    """What either side learned of the other (DER), and the version; raises what a socket would."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [one, other]
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert not waiting, "a handshake takes fewer turns"
    return one.getpeercert(binary_form=True), other.getpeercert(binary_form=True), one.version()


def test_members_know_each_other_by_the_exact_certificate(people):
    anna, bert, _ = people
    a, b = tls_of(anna, bert), tls_of(bert, anna)
    seen_by_client, seen_by_server, version = shake(a.client, b.server)
    assert a.members[seen_by_client] == bert.node
    assert b.members[seen_by_server] == anna.node
    assert version == "TLSv1.3"


def test_who_is_not_in_the_roster_gets_no_further_than_the_handshake(people):
    anna, bert, stranger = people
    with pytest.raises(ssl.SSLError, match="CERTIFICATE"):
        shake(tls_of(stranger, bert).client, tls_of(bert, anna).server)
    with pytest.raises(ssl.SSLError, match="CERTIFICATE"):
        shake(tls_of(anna, bert).client, tls_of(stranger, anna).server)


def test_no_certificate_no_entry(people):
    anna, bert, _ = people
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.verify_mode = ssl.CERT_NONE
    with pytest.raises(ssl.SSLError, match="CERTIFICATE"):
        shake(bare, tls_of(bert, anna).server)


def test_no_session_can_be_resumed(people):
    """A resumed session would not show its certificate again."""
    anna, bert, _ = people
    assert tls_of(anna, bert).server.num_tickets == 0


def test_older_tls_is_refused(people):
    anna, bert, _ = people
    old = tls_of(anna, bert).client
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shake(old, tls_of(bert, anna).server)


def test_a_certificate_the_roster_does_not_have_is_a_configuration_error(people):
    anna, bert, _ = people
    with pytest.raises(ConfigError, match="not the certificate the roster has"):
        data_tls(anna.node, anna.certificate_file, anna.key_file, roster_of(bert))
    with pytest.raises(ConfigError, match="not the certificate the roster has"):
        data_tls(anna.node, bert.certificate_file, bert.key_file, roster_of(anna, bert))


def test_files_that_do_not_fit_are_a_configuration_error(people, tmp_path):
    anna, bert, _ = people
    with pytest.raises(ConfigError, match="not the key of"):
        data_tls(anna.node, anna.certificate_file, bert.key_file, roster_of(anna))
    with pytest.raises(ConfigError):
        data_tls(anna.node, tmp_path / "none", anna.key_file, roster_of(anna))
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(ConfigError):
        data_tls(anna.node, tmp_path / "junk", anna.key_file, roster_of(anna))


def test_a_roster_entry_that_is_no_certificate_is_a_configuration_error(people):
    anna, bert, _ = people
    broken = dataclasses.replace(bert, credentials=Broken())
    with pytest.raises(ConfigError, match="roster"):
        data_tls(anna.node, anna.certificate_file, anna.key_file, roster_of(anna, broken))


class Broken:
    certificate_der = b"no DER"
