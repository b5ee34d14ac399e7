"""The two kinds of wrong.

::

    ProtocolError
    ├── LocalProtocolError      we called the protocol wrongly: a bug of ours, let it crash
    └── RemoteProtocolError     somebody sent us nonsense: reject it, count it under ``reason``, go on
        ├── MalformedMessage    bytes that are no message, or a field out of range
        ├── OversizedMessage    larger than its bound; refused before anything is allocated for it
        ├── BadSignature        the signature does not cover these bytes
        ├── UnknownSender       no such member in the roster, or the role does not allow this kind
        ├── WrongCluster        an envelope of another cluster
        ├── StaleMessage        its time to live has passed
        └── ReplayedMessage     this (sender, incarnation, sequence) was already accepted

No error changes any state: whoever raises has accepted nothing.
"""


class ProtocolError(Exception):
    """Anything this package raises."""


class LocalProtocolError(ProtocolError):
    """Our own mistake."""


class RemoteProtocolError(ProtocolError):
    """Their mistake; ``reason`` is the label it is counted under."""

    reason = "protocol"


class MalformedMessage(RemoteProtocolError):
    reason = "malformed"


class OversizedMessage(RemoteProtocolError):
    reason = "oversized"


class BadSignature(RemoteProtocolError):
    reason = "signature"


class UnknownSender(RemoteProtocolError):
    reason = "sender"


class WrongCluster(RemoteProtocolError):
    reason = "cluster"


class StaleMessage(RemoteProtocolError):
    reason = "expired"


class ReplayedMessage(RemoteProtocolError):
    reason = "replay"
