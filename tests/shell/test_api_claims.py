"""What follows from a request id and an API key: the same everywhere, and different for anybody else."""

import pytest

from shoal_agent.shell.api.claims import RequestId, lone, request_id_of, secrets_of, seen_of
from shoal_agent.shell.api.errors import ApiError

KEY = bytes(range(32))
NAMED = RequestId("0123456789abcdef", named=True)


@pytest.mark.parametrize("text", ["0123456789abcdef", "a" * 64, "A-Z_a-z_0-9_abcdef"])
def test_a_name_a_client_may_come_back_with(text):
    assert request_id_of(text) == RequestId(text, named=True)


@pytest.mark.parametrize("text", ["short", "a" * 65, "with.dots.and:colons.in.it"])
def test_a_harmless_name_that_is_only_a_name(text):
    assert request_id_of(text) == RequestId(text, named=False)
    assert secrets_of(request_id_of(text), KEY, "m", b"", None).claim is None


@pytest.mark.parametrize("text", ["", "a b", "x" * 129, "\u00e9" * 20, "a\nb"])
def test_a_name_that_is_none_is_replaced_by_one_that_is_good_for_coming_back(text):
    one, other = request_id_of(text), request_id_of(text)
    assert one.text != other.text
    assert not one.named
    assert secrets_of(one, KEY, "m", b"", None).claim is not None
    assert request_id_of(one.text).named


def test_everything_that_tells_clients_apart_tells_their_secrets_apart():
    base = secrets_of(NAMED, KEY, "m", b"asked", 3)
    assert secrets_of(NAMED, KEY, "m", b"asked", 3) == base
    assert base.claim.seen == 3
    others = [
        secrets_of(NAMED, bytes(32), "m", b"asked", 3),
        secrets_of(NAMED, KEY, "n", b"asked", 3),
        secrets_of(RequestId("0123456789abcdeg", named=True), KEY, "m", b"asked", 3),
    ]
    for other in others:
        assert other.session != base.session
        assert other.claim.key != base.claim.key
        assert other.seed != base.seed
        assert other.claim.intent == base.claim.intent
    assert secrets_of(NAMED, KEY, "m", b"else", 3).claim.intent != base.claim.intent
    assert base.claim.key not in (base.session * 2, KEY)


def test_what_cannot_be_claimed_is_drawn_at_random():
    assert lone().session != lone().session


def test_who_does_not_come_back_has_seen_nothing():
    assert seen_of(None, NAMED) is None
    assert seen_of("17", NAMED) == 17


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "9" * 11])
def test_a_number_that_is_none(text):
    with pytest.raises(ApiError):
        seen_of(text, NAMED)
