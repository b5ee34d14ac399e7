"""How commands talk to an agent's HTTP API: where it is, which key opens it, and what went wrong in plain words.

Proxies of the environment are ignored: agents stand on loopback or in the local network, where a proxy cannot reach.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Final

import httpx
import typer

from shoal_agent.errors import ConfigError, DeniedError, FailedError, TimedOutError, UnavailableError

DEFAULT_API: Final = "http://127.0.0.1:8600"
CONNECT_TIMEOUT_S: Final = 5.0
"""An agent in the local network accepts within milliseconds, or is not there."""
ANSWER_TIMEOUT_S: Final = 120.0
"""Silence within one answer; the slowest prefill we know takes a quarter of it."""

Api = Annotated[str, typer.Option("--api", envvar="SHOAL_API", help="An agent's API, as a URL.")]
Key = Annotated[str, typer.Option("--key", envvar="SHOAL_API_KEY", help="A key of that API.", show_envvar=True)]


@contextmanager
def api_client(api: str, key: str) -> Iterator[httpx.Client]:
    """A client of the API at ``api``; whatever fails inside the block comes out as a UserError."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    try:
        with httpx.Client(base_url=api, headers=headers, timeout=timeout, trust_env=False) as client:
            yield client
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as fault:
        raise ConfigError(f"{api} is no address of an API: {fault}", f"--api {DEFAULT_API}") from fault
    except UnicodeEncodeError as fault:
        raise ConfigError("the key has characters that no key has", "copy it again from `shoal api-key`") from fault
    except httpx.ConnectError as fault:
        hint = "start an agent (`shoal run`), or name another one with --api or SHOAL_API"
        raise UnavailableError(f"nobody answers at {api}: {fault}", hint) from fault
    except httpx.TimeoutException as fault:
        raise TimedOutError(f"{api} fell silent", "shoal status shows whether a node is missing") from fault
    except httpx.TransportError as fault:
        raise UnavailableError(f"the connection to {api} broke: {fault}", "try again; shoal status") from fault


def get_json(client: httpx.Client, path: str) -> dict[str, Any]:
    """What the API says at ``path``."""
    response = client.get(path)
    refuse_error(response)
    try:
        value = response.json()
    except ValueError as fault:
        raise FailedError(f"{path} answered no JSON", "is this a shoal agent's API?") from fault
    if not isinstance(value, dict):
        raise FailedError(f"{path} answered no object", "is this a shoal agent's API?")
    return value


def refuse_error(response: httpx.Response) -> None:
    """Raise what an error response (already read) says, in its own words."""
    if response.is_success:
        return
    message = f"the API answered {response.status_code}: {_message_of(response)}"
    if response.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        raise DeniedError(message, "name a key with --key or SHOAL_API_KEY; `shoal api-key` makes one")
    if response.status_code in {httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.TOO_MANY_REQUESTS}:
        raise UnavailableError(message, "shoal status shows who is missing; try again")
    raise FailedError(message)


def _message_of(response: httpx.Response) -> str:
    """The message of an OpenAI-shaped error, or the beginning of whatever came."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
