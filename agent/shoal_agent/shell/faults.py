"""What goes wrong with a connection, in words that can be counted, and what that says of the peer.

``Fault`` is what a peer did wrong. ``LinkFault`` is what the core hears of a link that is down; here errors of the
operating system become one. The difference matters: a machine that refuses a connection says that its process is gone,
a machine that says nothing leaves open why.
"""

import errno
import re
from enum import StrEnum
from typing import Final

from shoal_agent.core.facts import LinkFault

UNREACHABLE: Final = (
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.ENETDOWN,
    # asyncio's word for a TLS handshake that nobody answered in time
    errno.ECONNABORTED,
)
"""Errors of an attempt that got no answer from where it was sent."""
_ERRNO: Final = re.compile(r"\[Errno (-?\d+)\]")
"""A host with several addresses fails with one error whose text names that of each."""


class Fault(StrEnum):
    """What a peer did that no correct node does; beside these, the reasons of the protocol's own errors."""

    CERTIFICATE = "certificate"
    """Its certificate is not in the roster, or it showed none."""
    HANDSHAKE = "handshake"
    IDENTITY = "identity"
    """A member answered, but not the one that was dialled."""
    HELLO = "hello"
    """Its Hello is missing, repeated, of another version, or names another node than its certificate."""
    DIRECTION = "direction"
    """A frame of the kind that only the other end may send."""
    CREDIT = "credit"
    """It sent without credit, or returned credit it never had."""
    UNREAD = "unread"
    """It sends, but reads none of our answers."""
    CIRCUIT = "circuit"
    """Through a broker it sent more than the window allows, or acknowledged what was never sent."""


def link_fault_of(error: BaseException) -> LinkFault:
    """Why a connection could not be made."""
    if isinstance(error, TimeoutError):
        return LinkFault.SILENT
    if not isinstance(error, OSError):
        return LinkFault.OTHER
    numbers = [error.errno] if error.errno is not None else [int(number) for number in _ERRNO.findall(str(error))]
    if isinstance(error, ConnectionAbortedError):
        numbers = [errno.ECONNABORTED]
    if numbers and all(number == errno.ECONNREFUSED for number in numbers):
        return LinkFault.REFUSED
    return LinkFault.SILENT if any(number in UNREACHABLE for number in numbers) else LinkFault.OTHER
