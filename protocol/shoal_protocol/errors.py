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


class MalformedMessage(RemoteProtocolError):  # noqa: N818 - the tree above is the naming
    """Bytes that are no message, or a field out of range."""

    reason = "malformed"


class OversizedMessage(RemoteProtocolError):  # noqa: N818 - the tree above is the naming
    """Larger than its bound; nothing was allocated for it."""

    reason = "oversized"


class BadSignature(RemoteProtocolError):  # noqa: N818 - the tree above is the naming
    """The signature does not cover these bytes."""

    reason = "signature"


class UnknownSender(RemoteProtocolError):  # noqa: N818 - the tree above is the naming
    """No such member, or its role does not allow this kind."""

    reason = "sender"


class WrongCluster(RemoteProtocolError):  # noqa: N818 - the tree above is the naming
    """An envelope of another cluster."""

    reason = "cluster"


class StaleMessage(RemoteProtocolError):  # noqa: N818 - the tree above is the naming
    """Its time to live has passed, or it comes from the future."""

    reason = "expired"


class ReplayedMessage(RemoteProtocolError):  # noqa: N818 - the tree above is the naming
    """This (sender, incarnation, sequence) was already accepted, or is too old to tell."""

    reason = "replay"
