import pytest

from shoal_protocol.errors import BadSignature, LocalProtocolError
from shoal_protocol.sealing import Ed25519Sealer, pae, verify


def test_the_rfc_8032_key_signs_as_the_rfc_says():
    sealer = Ed25519Sealer(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert sealer.public_key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert sealer.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b"
    )
    verify(sealer.public_key, b"", sealer.sign(b""))


def test_the_pae_is_the_one_of_dsse():
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


def test_no_two_pairs_share_an_encoding():
    pairs = [("a", b"b"), ("a 1 b", b""), ("", b"a 1 b"), ("a", b"1 b"), ("a 1", b"b")]
    assert len({pae(*pair) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("change", [0, 31, 32, 63])
def test_a_changed_signature_is_refused(change):
    sealer = Ed25519Sealer(bytes(32))
    signature = bytearray(sealer.sign(b"message"))
    signature[change] ^= 1
    with pytest.raises(BadSignature):
        verify(sealer.public_key, b"message", bytes(signature))


def test_another_message_or_key_is_refused():
    sealer, other = Ed25519Sealer(bytes(32)), Ed25519Sealer(b"\1" * 32)
    signature = sealer.sign(b"message")
    verify(sealer.public_key, b"message", signature)
    for key, message in ((sealer.public_key, b"massage"), (other.public_key, b"message"), (bytes(32), b"message")):
        with pytest.raises(BadSignature):
            verify(key, message, signature)


@pytest.mark.parametrize(("key_bytes", "signature_bytes"), [(31, 64), (33, 64), (32, 63), (32, 65), (0, 0)])
def test_wrong_lengths_are_refused(key_bytes, signature_bytes):
    with pytest.raises(BadSignature):
        verify(bytes(key_bytes), b"", bytes(signature_bytes))


def test_a_seed_of_another_length_is_our_mistake():
    with pytest.raises(LocalProtocolError):
        Ed25519Sealer(bytes(31))
