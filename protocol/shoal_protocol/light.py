"""How busy a node's light services are, as it tells others: the digest that dispatch decides by, and the probe.

    every slot under load     DigestTold, signed, to all of the share: whom might I send work to?
    at the moment of sending  LoadAsked ──► LoadTold, over the link: and is it still true?

A digest is old when it is read. Whoever sends to the least loaded of old digests sends where everybody else does, and
the load runs about in a herd (Mitzenmacher 2000). So digests only nominate, and what is asked in the last moment
decides. A digest is no record: it is not retained, nobody passes it on, and a lost one is followed by the next.

All numbers are whole, in a named unit, and bounded: there is no NaN on this wire, no infinity and nothing negative.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceLoad:
    """One light service on one node. Work is counted in KiB of request, at least one for each call.

    So much work is ``waiting`` or under way, weighed by how long it has been; each of ``instances`` does ``rate_milli``
    in a thousand seconds (0: not measured); the work that is there keeps them for ``wait_us``.
    """

    service: str
    instances: int
    waiting: int
    rate_milli: int
    wait_us: int


@dataclass(frozen=True, slots=True)
class DigestTold:
    """How busy the sender's light services are, and what its budgets make of more work. Neither retained nor kept.

    What is owed to classes of requests is not in it: that rides with each call, in ``ServiceCall``.
    """

    loads: tuple[ServiceLoad, ...]
    price_milli: int = 0
    """What a tenth of a second of one of its processors costs there, in thousandths of a level: energy and money spent
    beyond the budgets, each times what it would add. 0 within the budgets."""


@dataclass(frozen=True, slots=True)
class LoadAsked:
    """Before sending work: tell me how busy ``service`` is with you now."""

    call: int
    service: str


@dataclass(frozen=True, slots=True)
class LoadTold:
    """Answer to LoadAsked; no ``load``: it does not run here. ``price_milli`` is that of a digest."""

    call: int
    load: ServiceLoad | None
    price_milli: int = 0


LightHeader = LoadAsked | LoadTold
