"""The chain of plans of one deployment: what has been decided, from genesis on, and why it may be believed.

Think of a title deed: every plan names its voters, and a quorum of these signed the next one. Whoever trusts the first
plan, which an operator signed, can check the whole chain alone, whoever brought it. So nothing enters that is not
proven, and what is in is handed to anybody who asks, for ever: the newest link alone proves nothing to a newcomer.

    genesis      an operator's sealed word; its terms bind every later plan
    certificate  Q precommits of the voters whom the plan before names
    order        operators_min operators' signatures: the chain is cut, and goes on 2^20 epochs later. What was between
                 genesis and the newest order proves nothing any more and is forgotten

Links come in any order; one whose parent is missing waits in a room of limited size, because anybody could fill it. Two
proven plans of one epoch cannot be, unless more voters lie than the terms allow for: then the first one stays, for
nothing would be gained by following the liars there and back, and the pair is a ``Conflict``.

What this node itself stored was proven when it was stored (``proven``). It is not judged again by a roster from which
voters have retired since: else every retirement would cut chains.
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import islice
from typing import Final

from shoal_protocol.codec import decode_plan
from shoal_protocol.errors import MalformedMessage, RemoteProtocolError
from shoal_protocol.ids import ClusterId, DeploymentId, Digest, Epoch, digest_of
from shoal_protocol.messages import Certified, Plan, PlanAnnounced, RecoveryOrdered
from shoal_protocol.roster import TrustedRoster
from shoal_protocol.votes import open_certificate, open_recovery

WAITING_MAX: Final = 64
"""Certificates without a parent, per deployment: an answer of anti-entropy that arrives backwards fits."""
LINKS_MAX: Final = 16_384
"""Links kept, about 25 MB: four changes a day for eleven years. Beyond, the oldest go, and newcomers need an order."""

Proof = PlanAnnounced | Certified | RecoveryOrdered


@dataclass(frozen=True, slots=True)
class Link:
    """One proven plan. ``wire`` is the operator's envelope, which nobody else can seal; certificates need none."""

    epoch: Epoch
    digest: Digest
    proof: Proof
    wire: bytes = b""

    @property
    def raw(self) -> bytes:
        """The plan, in the bytes whose digest names it."""
        return self.proof.plan


@dataclass(frozen=True, slots=True)
class Extended:
    """These links are new, in order; the last one is the head."""

    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something before ``epoch`` is missing: ask whoever said this."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class Known:
    """Nothing new: it is in the chain, or before a part that was cut."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Another plan was proven for an epoch that ``held`` holds."""

    epoch: Epoch
    held: Digest
    other: Digest


Outcome = Extended | Waiting | Known | Conflict


class Chain:
    """All that is proven about one deployment. Adding raises RemoteProtocolError on what proves nothing."""

    def __init__(self, deployment: DeploymentId) -> None:
        self.deployment = deployment
        self._links: dict[Epoch, Link] = {}
        self._head: tuple[Link, Plan] | None = None
        self._waiting: OrderedDict[Digest, Certified] = OrderedDict()
        self._stored: dict[Digest, Certified] = {}
        self._order: tuple[RecoveryOrdered, bytes, bool] | None = None

    @property
    def head(self) -> Link | None:
        """The newest link."""
        return None if self._head is None else self._head[0]

    @property
    def plan(self) -> Plan:
        """The newest plan."""
        assert self._head is not None, "asked of a chain that has begun"
        return self._head[1]

    def link(self, epoch: Epoch) -> Link | None:
        """The link of ``epoch``, if it is kept."""
        return self._links.get(epoch)

    def after(self, epoch: int) -> tuple[Link, ...]:
        """What somebody lacks whose newest plan is of ``epoch`` (-1: who has none), in order."""
        return tuple(link for link in self._links.values() if link.epoch > epoch)

    # --- adding -----------------------------------------------------------------------------------------------------

    def begin(self, announced: PlanAnnounced, wire: bytes, roster: TrustedRoster, cluster: ClusterId) -> Outcome:
        """The genesis plan, out of an operator's envelope that was verified."""
        plan, digest = decode_plan(announced.plan), digest_of(announced.plan)
        assert plan.deployment == self.deployment, "filed under its own name"
        if plan.epoch != 0:
            raise MalformedMessage(f"epoch {plan.epoch} is no beginning")
        held = self._links.get(plan.epoch)
        if held is not None:
            return Known() if held.digest == digest else Conflict(plan.epoch, held.digest, digest)
        before = self._append(Link(plan.epoch, digest, announced, wire), plan)
        if self._order is not None:
            order, order_wire, proven = self._order
            self._order = None
            self._try_order(order, order_wire, roster, cluster, proven=proven)
        return self._extended(before, roster, cluster)

    def certify(
        self, certified: Certified, roster: TrustedRoster, cluster: ClusterId, *, proven: bool = False
    ) -> Outcome:
        """A certificate, from anybody."""
        plan, digest = decode_plan(certified.plan), digest_of(certified.plan)
        assert plan.deployment == self.deployment, "filed under its own name"
        head = self.head
        if head is not None and plan.epoch <= head.epoch:
            return self._compare(certified, plan, digest, roster, cluster)
        if head is None or plan.parent != head.digest:
            if head is not None and plan.epoch == head.epoch + 1:
                raise MalformedMessage(f"{plan.deployment}/{plan.epoch} names another plan than {head.digest.hex()}")
            self._wait(certified, plan.parent, proven=proven)
            return Waiting(plan.epoch)
        if not proven:
            open_certificate(certified, head.raw, roster, cluster)
        return self._extended(self._append(Link(plan.epoch, digest, certified), plan), roster, cluster)

    def order(
        self, order: RecoveryOrdered, wire: bytes, roster: TrustedRoster, cluster: ClusterId, *, proven: bool = False
    ) -> Outcome:
        """An order of operators, out of a verified envelope."""
        plan, digest = decode_plan(order.plan), digest_of(order.plan)
        assert plan.deployment == self.deployment, "filed under its own name"
        head = self.head
        if head is None:
            if self._order is None or decode_plan(self._order[0].plan).epoch < plan.epoch:
                self._order = order, wire, proven
            return Waiting(plan.epoch)
        held = self._links.get(plan.epoch)
        if plan.epoch <= head.epoch:
            if held is None or held.digest == digest:
                return Known()
            open_recovery(order, self._links[Epoch(0)].raw, roster, cluster)
            return Conflict(plan.epoch, held.digest, digest)
        if not proven:
            open_recovery(order, head.raw, roster, cluster)
        return self._extended(self._cut(Link(plan.epoch, digest, order, wire), plan), roster, cluster)

    def _compare(
        self, certified: Certified, plan: Plan, digest: Digest, roster: TrustedRoster, cluster: ClusterId
    ) -> Outcome:
        """A certificate of the past: what is known, or what should not exist."""
        held, parent = self._links.get(plan.epoch), self._links.get(Epoch(plan.epoch - 1))
        if held is None or parent is None or held.digest == digest:
            return Known()
        open_certificate(certified, parent.raw, roster, cluster)
        return Conflict(plan.epoch, held.digest, digest)

    def _wait(self, certified: Certified, parent: Digest, *, proven: bool) -> None:
        if proven:
            # Read back from this node's own disk: as many as it once proved, in whatever order files have.
            self._stored[parent] = certified
            return
        self._waiting[digest_of(certified.plan)] = certified
        if len(self._waiting) > WAITING_MAX:
            self._waiting.popitem(last=False)

    def _append(self, link: Link, plan: Plan) -> list[Link]:
        self._links[link.epoch] = link
        self._head = link, plan
        if len(self._links) > LINKS_MAX:
            del self._links[next(islice(self._links, 1, None))]
        return [link]

    def _cut(self, link: Link, plan: Plan) -> list[Link]:
        """Go on at ``link``; genesis is kept, for its terms prove the order."""
        self._links = {epoch: kept for epoch, kept in self._links.items() if epoch == 0}
        self._stored = {at: each for at, each in self._stored.items() if decode_plan(each.plan).epoch > link.epoch}
        return self._append(link, plan)

    def _try_order(
        self, order: RecoveryOrdered, wire: bytes, roster: TrustedRoster, cluster: ClusterId, *, proven: bool
    ) -> None:
        assert self.head is not None, "tried when the chain begins"
        try:
            plan = decode_plan(order.plan) if proven else open_recovery(order, self.head.raw, roster, cluster)
        except RemoteProtocolError:
            return
        self._cut(Link(plan.epoch, digest_of(order.plan), order, wire), plan)

    def _extended(self, links: list[Link], roster: TrustedRoster, cluster: ClusterId) -> Extended:
        """Let in whoever waited for the head, and whoever waited for him."""
        assert self.head is not None, "a link was just added"
        if self.head != links[-1]:
            links.append(self.head)
        while (link := self._follower(roster, cluster)) is not None:
            links.append(link)
        self._waiting = OrderedDict(
            (digest, each) for digest, each in self._waiting.items() if decode_plan(each.plan).epoch > self.head.epoch
        )
        return Extended(tuple(links))

    def _follower(self, roster: TrustedRoster, cluster: ClusterId) -> Link | None:
        """The next link, if it waits; one that proves nothing is thrown out."""
        assert self._head is not None, "a link was just added"
        head = self._head[0]
        stored = self._stored.pop(head.digest, None)
        candidates = [each for each in self._waiting.values() if decode_plan(each.plan).parent == head.digest]
        for certified in (*([stored] if stored else []), *candidates):
            digest = digest_of(certified.plan)
            self._waiting.pop(digest, None)
            try:
                plan = decode_plan(certified.plan)
                if certified is not stored:
                    open_certificate(certified, head.raw, roster, cluster)
            except RemoteProtocolError:
                continue
            link = Link(plan.epoch, digest, certified)
            self._append(link, plan)
            return link
        return None
