import pytest
from starlette.requests import Request

from shoal_agent.shell.api.auth import ApiKeys, authorized, hash_key, new_key
from shoal_agent.shell.api.errors import ApiError
from shoal_protocol.limits import API_KEYS_MAX


def test_a_key_is_admitted_by_its_hash_alone():
    key = new_key()
    keys = ApiKeys([hash_key(new_key()), hash_key(key)])
    assert keys.holder(f"Bearer {key}") == bytes.fromhex(hash_key(key))
    assert keys.holder(f"bearer   {key} ") == bytes.fromhex(hash_key(key))
    assert key not in repr(vars(keys))


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic sk-shoal-right",
        "sk-shoal-right",
        "Bearer sk-shoal-right2",
        "Bearer \udcff",
        "Bearer " + "x" * 100_000,
    ],
)
def test_anything_else_is_not(header):
    assert ApiKeys([hash_key("sk-shoal-right")]).holder(header) is None


def test_without_keys_nobody_is_admitted():
    assert ApiKeys([]).holder("Bearer ") is None
    assert ApiKeys([]).holder("Bearer x") is None


def test_keys_are_long_and_never_repeat():
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert min(map(len, keys)) >= 50
    assert hash_key("a") == hash_key("a") != hash_key("b")
    assert len(hash_key("a")) == 64


def test_the_number_of_keys_is_bounded():
    with pytest.raises(ValueError, match="at most"):
        ApiKeys([hash_key("x")] * (API_KEYS_MAX + 1))


@pytest.mark.parametrize("header", [None, "", "Bearer sk-shoal-wrong", "Basic sk-shoal-right"])
def test_a_path_that_needs_a_key_says_who_asks_or_refuses(header):
    keys = ApiKeys([hash_key("sk-shoal-right")])

    def asking(said):
        raw = [] if said is None else [(b"authorization", said.encode())]
        return Request({"type": "http", "headers": raw})

    assert authorized(asking("Bearer sk-shoal-right"), keys) == bytes.fromhex(hash_key("sk-shoal-right"))
    with pytest.raises(ApiError) as caught:
        authorized(asking(header), keys)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
