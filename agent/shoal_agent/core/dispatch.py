"""Where a light service runs.

**By name** (``place``). The shortest path: here if this node has it, else on a host of the plan (it holds the
package already), else on any present node that says it has it. Among equals a rendezvous hash of (session, node)
decides, so that many sessions spread without anybody counting; no node is special.

**By load** (rule B). Every node that could run a task is an ``Offer``; the least of this is the best place::

    score = urgency (transfer + wait) / deadline + V price - pressure here + pressure there + in flight + age bias
          + dues

**Dues.** What a node spends beyond its budgets is a queue like any other (E, K), and work that is sent there adds to it
as it does to Q + W. A busy processor adds ``E joules + K money`` to the drift in a slot (``budgets.slot_price``), and a
level of work keeps one busy for ``1 / rate`` slots; so its dues, in the unit of a pressure, are::

    rule A: an instance is worth  pressure rate - (E joules + K money)  a slot        dues = (E joules + K money) / rate

The same figure decides at home how many instances are worth it and, told to others, whether they send work: a node that
is over its budget gets less of it at once, and not only when it has stopped its instances and its queue is long. Within
its budget nobody has dues.

Pressures come from digests, and digests are old. Whoever sends to the least loaded of old figures sends together with
everybody else (Mitzenmacher 2000): costs rose 1.7 to 2 times at one slot of age. So the digests only make a list of
the best three; the best and one of the others, drawn at random, are *probed* (asked how things stand now), and the
better answer gets the task. What was sent to a node since its digest is added to what it said.

The best by digest is always asked: nodes are not alike, and where a transfer is dear it is often the only good one. Two
drawn from all three leave it out one time in three, which took a fifth of all tasks past their deadline in the paper's
setting (``shoal experiment paper-a``). It does not bring the herd back: a probe shows those who came before.
"""

import hashlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Final

from shoal_agent.core.membership import Membership
from shoal_agent.core.quantities import amount, positive
from shoal_protocol.ids import Instant, NodeId, SessionId

LISTED: Final = 3
"""So many are good enough by digest."""
PROBED: Final = 2
"""Of which so many are asked: the power of two choices."""
FLYING_MAX: Final = 256
"""Tasks of one service that are remembered one by one as on their way to a node."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node says of one service there, or what a probe of it answered."""

    node: NodeId
    pressure: float
    """Q + W as a level."""
    wait_slots: float
    """Until a task that comes now is done there."""
    transfer_slots: float = 0.0
    price: float = 0.0
    """Of sending the task there."""
    in_flight: float = 0.0
    """Levels that we sent there since it said this."""
    age_slots: float = 0.0
    dues: float = 0.0
    """What the node's budgets make of a level of this work there."""

    def __post_init__(self) -> None:
        near = 0 <= self.pressure < inf and 0 <= self.wait_slots < inf and 0 <= self.transfer_slots < inf
        rest = 0 <= self.price < inf and 0 <= self.in_flight < inf and 0 <= self.age_slots < inf
        if near and rest and 0 <= self.dues < inf:
            return  # as nearly always, and there are dozens in a slot
        for name in ("pressure", "wait_slots", "transfer_slots", "price", "in_flight", "age_slots", "dues"):
            amount(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be placed, and what this node makes of costs."""

    deadline_slots: float
    v: float
    urgency: float = 1.0
    bias: float = 0.0
    """Levels that a digest is distrusted by, per slot of its age."""

    def __post_init__(self) -> None:
        positive("deadline_slots", self.deadline_slots)
        for name in ("v", "urgency", "bias"):
            amount(name, getattr(self, name))


def score(offer: Offer, task: Task) -> float:
    """Drift plus penalty of sending the task there, apart from the pressure here, which is the same for all."""
    delay = (offer.transfer_slots + offer.wait_slots) / task.deadline_slots
    owed = task.urgency * delay + task.v * offer.price + offer.pressure + offer.in_flight
    return owed + offer.age_slots * task.bias + offer.dues


def shortlist(offers: Iterable[Offer], task: Task, local: Offer | None) -> tuple[Offer, ...]:
    """The best few that are better than staying here (anywhere, if the service does not run here)."""
    ranked = sorted(((score(offer, task), offer.node, offer) for offer in offers), key=lambda entry: entry[:2])
    bar = None if local is None else score(local, task)
    return tuple(offer for points, _, offer in ranked if bar is None or points < bar)[:LISTED]


def to_probe(listed: Sequence[Offer], rng: Random) -> tuple[Offer, ...]:
    """Who is asked: the best by digest, and others by chance."""
    if len(listed) <= PROBED:
        return tuple(listed)
    return listed[0], *rng.sample(listed[1:], PROBED - 1)


def settle(answers: Iterable[Offer], task: Task, local: Offer | None) -> NodeId | None:
    """Where the task goes, by the probes' answers; None if nobody answered and it cannot stay."""
    here = () if local is None else (local,)
    best = min((*here, *answers), key=lambda offer: (score(offer, task), offer is not local, offer.node), default=None)
    return None if best is None else best.node


class InFlight:
    """What this node sent to others and their digests cannot know of yet."""

    def __init__(self) -> None:
        self._sent: dict[tuple[NodeId, str], list[tuple[float, float]]] = {}

    def sent(self, node: NodeId, service: str, work: float, at: float = 0.0) -> None:
        """A task of ``work`` levels left at ``at``, in whatever time ``heard`` counts in."""
        entries = self._sent.setdefault((node, service), [])
        entries.append((at, amount("work", work)))
        if len(entries) > FLYING_MAX:
            # A node that tells nothing more: the oldest two are one from now on, as young as the younger.
            (_, first), (later, second) = entries[:2]
            entries[:2] = [(later, first + second)]

    def heard(self, node: NodeId, told: float = inf, service: str | None = None) -> None:
        """A newer digest of ``node`` is here (or a probe of one service): it counts what had left before ``told``."""
        for key in [key for key in self._sent if key[0] == node and service in (None, key[1])]:
            self._sent[key] = [entry for entry in self._sent[key] if entry[0] >= told]
            if not self._sent[key]:
                del self._sent[key]

    def of(self, node: NodeId, service: str) -> float:
        """Levels on their way to ``node``."""
        return sum(work for _, work in self._sent.get((node, service), ()))


def rendezvous(session: SessionId, nodes: Iterable[NodeId]) -> NodeId | None:
    """The node with the highest hash together with ``session``; None if there is none."""
    return max(
        nodes,
        key=lambda node: hashlib.blake2b(session + node.encode("ascii"), digest_size=8).digest(),
        default=None,
    )


def place(
    service: str,
    session: SessionId,
    here: NodeId,
    mine: Sequence[str],
    membership: Membership,
    hosts: Sequence[NodeId],
    now: Instant,
    shunned: Container[NodeId] = (),
) -> NodeId | None:
    """The node that is to run ``service`` for ``session``; None if nobody can, the ``shunned`` left aside."""
    if service in mine:
        return here
    able = [
        peer.node
        for peer in membership.peers()
        if service in peer.state.services and peer.node not in shunned and membership.present(peer.node, now)
    ]
    return rendezvous(session, [node for node in able if node in hosts]) or rendezvous(session, able)
