import dataclasses
import hashlib

import pytest
from nacl import bindings

from shoal_protocol.errors import (
    BadSignature,
    LocalProtocolError,
    MalformedMessage,
    OversizedMessage,
    RemoteProtocolError,
    StaleMessage,
    WrongCluster,
)
from shoal_protocol.fields import decode, encode, record
from shoal_protocol.ids import ClusterId
from shoal_protocol.limits import ROSTER_BYTES_MAX
from shoal_protocol.roster import (
    ROSTER_TYPE,
    Member,
    Role,
    RootSignature,
    Roster,
    SignedRoster,
    TrustedRoster,
    sign_roster,
)
from shoal_protocol.sealing import Ed25519Sealer, pae, verify
from tests.support.protocol import AGENT, MEMBERS, OBSERVER, ROOTS, ROSTER, STRANGER, node_of, trusted_roster

NOW_S = 1_760_000_000
PINNED = ROSTER.root_keys
SIGNED = record(SignedRoster, signed=True)
FRESH_ROOTS = tuple(Ed25519Sealer(bytes([index]) * 32) for index in (21, 22))


def changed(**changes) -> Roster:
    return dataclasses.replace(ROSTER, **changes)


def after(**changes) -> Roster:
    return changed(version=2, **changes)


def sign_unchecked(roster: Roster, sealers) -> bytes:
    """What a root would have to sign to break a rule of the roster's form."""
    body = encode(record(Roster, signed=True), roster)
    signatures = [RootSignature(s.public_key, s.sign(pae(ROSTER_TYPE, body))) for s in sealers]
    return encode(SIGNED, SignedRoster(body, tuple(signatures)))


def open_signed_by(*sealers) -> TrustedRoster:
    return TrustedRoster.open(sign_roster(ROSTER, sealers), PINNED, 2, NOW_S)


def test_a_threshold_of_pinned_roots_opens_it():
    wire = sign_roster(ROSTER, ROOTS[1:])
    roster = TrustedRoster.open(wire, PINNED, 2, NOW_S)
    assert (roster.cluster, roster.version, roster.expires_unix_s) == (ROSTER.cluster, 1, ROSTER.expires_unix_s)
    assert roster.members == MEMBERS
    assert roster.roster == ROSTER
    assert roster.wire == wire
    assert roster.member(node_of(AGENT)) == MEMBERS[0]
    assert roster.member(node_of(STRANGER)) is None


def test_fewer_than_the_threshold_do_not():
    with pytest.raises(BadSignature):
        open_signed_by(ROOTS[0])
    with pytest.raises(BadSignature):
        open_signed_by()


def test_a_key_counts_once_however_often_it_signs():
    with pytest.raises(BadSignature):
        open_signed_by(ROOTS[0], ROOTS[0], ROOTS[0])


def second_signature(seed: bytes, message: bytes) -> bytes:
    """Valid, but not the one RFC 8032 prescribes: whoever holds a key can make as many as they like."""
    public = Ed25519Sealer(seed).public_key
    secret = bindings.crypto_sign_ed25519_sk_to_curve25519(seed + public)
    nonce = bytes([7]) + bytes(31)
    point = bindings.crypto_scalarmult_ed25519_base_noclamp(nonce)
    challenge = bindings.crypto_core_ed25519_scalar_reduce(hashlib.sha512(point + public + message).digest())
    reduced = bindings.crypto_core_ed25519_scalar_reduce(secret + bytes(32))
    product = bindings.crypto_core_ed25519_scalar_mul(challenge, reduced)
    return point + bindings.crypto_core_ed25519_scalar_add(nonce, product)


def test_a_key_counts_once_even_with_different_signatures():
    signed = decode(SIGNED, sign_roster(ROSTER, ROOTS[:1]))
    other = second_signature(bytes([1]) * 32, pae(ROSTER_TYPE, signed.roster))
    assert other != signed.signatures[0].signature
    verify(PINNED[0], pae(ROSTER_TYPE, signed.roster), other)
    wire = encode(SIGNED, SignedRoster(signed.roster, (*signed.signatures, RootSignature(PINNED[0], other))))
    with pytest.raises(BadSignature):
        TrustedRoster.open(wire, PINNED, 2, NOW_S)


def test_an_unknown_key_does_not_count_and_does_not_harm():
    with pytest.raises(BadSignature):
        open_signed_by(ROOTS[0], STRANGER)
    assert open_signed_by(STRANGER, ROOTS[0], ROOTS[1]).version == 1


def test_a_broken_signature_does_not_count_and_does_not_harm():
    signed = decode(SIGNED, sign_roster(ROSTER, ROOTS))
    broken = RootSignature(signed.signatures[0].public_key, bytes(64))
    others = signed.signatures[1:]
    good = encode(SIGNED, SignedRoster(signed.roster, (broken, *others)))
    assert TrustedRoster.open(good, PINNED, 2, NOW_S).version == 1
    bad = encode(SIGNED, SignedRoster(signed.roster, (broken, others[0])))
    with pytest.raises(BadSignature):
        TrustedRoster.open(bad, PINNED, 2, NOW_S)


def test_the_pinned_threshold_counts_and_not_only_the_rosters_own():
    wire = sign_roster(changed(root_threshold=1), ROOTS[:1])
    assert TrustedRoster.open(wire, PINNED, 1, NOW_S).version == 1
    with pytest.raises(BadSignature):
        TrustedRoster.open(wire, PINNED, 2, NOW_S)


def test_its_own_threshold_counts_and_not_only_the_pinned():
    wire = sign_roster(changed(root_threshold=3), ROOTS[:2])
    with pytest.raises(BadSignature):
        TrustedRoster.open(wire, PINNED, 2, NOW_S)


def test_a_signature_on_something_else_is_no_signature_on_a_roster():
    body = encode(record(Roster, signed=True), ROSTER)
    signatures = tuple(RootSignature(s.public_key, s.sign(pae("another/type", body))) for s in ROOTS)
    with pytest.raises(BadSignature):
        TrustedRoster.open(encode(SIGNED, SignedRoster(body, signatures)), PINNED, 2, NOW_S)


def test_an_expired_roster_is_refused():
    wire = sign_roster(ROSTER, ROOTS)
    assert TrustedRoster.open(wire, PINNED, 2, ROSTER.expires_unix_s - 1)
    with pytest.raises(StaleMessage):
        TrustedRoster.open(wire, PINNED, 2, ROSTER.expires_unix_s)


def test_one_changed_byte_anywhere_is_refused():
    wire = sign_roster(ROSTER, ROOTS[:2])
    for index in range(len(wire)):
        broken = bytearray(wire)
        broken[index] ^= 1
        with pytest.raises(RemoteProtocolError):
            TrustedRoster.open(bytes(broken), PINNED, 2, NOW_S)


@pytest.mark.parametrize("wire", [b"", b"\x90", b"\x92\xc4\x00\x90"])
def test_what_is_no_roster_is_refused(wire):
    with pytest.raises((MalformedMessage, BadSignature)):
        TrustedRoster.open(wire, PINNED, 2, NOW_S)


def test_an_oversized_roster_is_refused_unread():
    with pytest.raises(OversizedMessage):
        TrustedRoster.open(bytes(ROSTER_BYTES_MAX + 1), PINNED, 2, NOW_S)


def test_a_pin_that_nobody_can_meet_is_our_mistake():
    for keys, threshold in ((PINNED, 0), (PINNED, 4), ((PINNED[0], PINNED[0]), 2)):
        with pytest.raises(LocalProtocolError):
            TrustedRoster.open(sign_roster(ROSTER, ROOTS), keys, threshold, NOW_S)


FORMS = {
    "no root": changed(root_keys=(), root_threshold=1),
    "a root twice": changed(root_keys=(PINNED[0], PINNED[0]), root_threshold=1),
    "threshold beyond the roots": changed(root_threshold=4),
    "a node twice": changed(members=(MEMBERS[0], MEMBERS[0])),
    "an id that is not the key's": changed(members=(dataclasses.replace(MEMBERS[0], node=node_of(STRANGER)),)),
    "no role": changed(members=(dataclasses.replace(MEMBERS[0], roles=()),)),
    "a role twice": changed(members=(dataclasses.replace(MEMBERS[0], roles=(Role.AGENT, Role.AGENT)),)),
    "roles out of order": changed(members=(dataclasses.replace(MEMBERS[0], roles=(Role.WITNESS, Role.AGENT)),)),
    "one certificate for two": changed(
        members=(MEMBERS[0], dataclasses.replace(MEMBERS[1], certificate=MEMBERS[0].certificate))
    ),
}


@pytest.mark.parametrize("roster", FORMS.values(), ids=FORMS.keys())
def test_a_roster_that_breaks_a_rule_is_neither_signed_nor_opened(roster):
    with pytest.raises(LocalProtocolError):
        sign_roster(roster, ROOTS)
    with pytest.raises(MalformedMessage):
        TrustedRoster.open(sign_unchecked(roster, ROOTS), PINNED, 2, NOW_S)


def test_the_next_version_replaces_this_one_and_leaves_it_alone():
    before = trusted_roster()
    newcomer = Member(node_of(STRANGER), STRANGER.public_key, (Role.AGENT,), "home", b"fresh certificate")
    new = before.update(sign_roster(after(members=(*MEMBERS, newcomer)), ROOTS[:2]), NOW_S)
    assert new.version == 2
    assert new.member(node_of(STRANGER)) == newcomer
    assert before.member(node_of(STRANGER)) is None


@pytest.mark.parametrize("version", [0, 1, 3])
def test_any_other_version_is_refused(version):
    with pytest.raises(StaleMessage):
        trusted_roster().update(sign_roster(changed(version=version), ROOTS), NOW_S)


def test_a_revoked_member_is_gone():
    new = trusted_roster().update(sign_roster(after(members=MEMBERS[1:]), ROOTS), NOW_S)
    assert new.member(node_of(AGENT)) is None


def test_another_clusters_roster_is_refused():
    with pytest.raises(WrongCluster):
        trusted_roster().update(sign_roster(after(cluster=ClusterId("00" * 16)), ROOTS), NOW_S)


def test_an_expired_update_is_refused():
    with pytest.raises(StaleMessage):
        trusted_roster().update(sign_roster(after(expires_unix_s=NOW_S), ROOTS), NOW_S)


def test_roots_rotate_only_if_the_old_and_the_new_both_sign():
    fresh = after(root_keys=tuple(root.public_key for root in FRESH_ROOTS), root_threshold=2)
    before = trusted_roster()
    for signers in ((*ROOTS[:2],), FRESH_ROOTS, (ROOTS[0], *FRESH_ROOTS), (*ROOTS[:2], FRESH_ROOTS[0])):
        with pytest.raises(BadSignature):
            before.update(sign_roster(fresh, signers), NOW_S)
    rotated = before.update(sign_roster(fresh, (*ROOTS[:2], *FRESH_ROOTS)), NOW_S)
    third = dataclasses.replace(fresh, version=3, members=(MEMBERS[3],))
    assert rotated.update(sign_roster(third, FRESH_ROOTS), NOW_S).member(node_of(OBSERVER)) == MEMBERS[3]
    with pytest.raises(BadSignature):
        rotated.update(sign_roster(third, ROOTS), NOW_S)
