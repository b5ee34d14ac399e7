"""Whether this node may vote about the next plan of a deployment: only if it knows what it said before.

A voter that has forgotten what it said must not speak, for it might contradict itself, and nobody could tell that from
a lie. How much it may have forgotten depends on what it finds when it starts:

- *a chain and a diary of the epoch after it*: nothing. It goes on where it was.
- *a chain whose newest plan makes it a voter, and no diary of the epoch after it*: the diary is lost, because it is
  written before that plan is. This node never voted beyond that epoch, so it is **barred** from that one alone.
- *nothing, though it has lived before* (``lose``): it may have voted in epochs it does not even know. It is barred
  from the epoch after the newest plan it learns of, and stays **lost** until it sees a plan being agreed on: when a
  quorum spoke about an epoch while this node listened, nothing that it once said concerns a later one. An operators'
  order ends it, too, if it comes so late that it cannot be a part of the past that others hand on.
- *nothing, and neither it nor others know of an earlier life*: it is new. Since it cannot know that before others had
  time to answer its first words, it votes SETTLE_S after it first heard of the deployment.
"""

from dataclasses import replace
from typing import Final

from shoal_agent.core.ballots import Memory
from shoal_agent.core.effects import Persist
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.votelog import Diary, write
from shoal_protocol.ids import DeploymentId, Epoch, Instant, NodeId
from shoal_protocol.messages import Cause, Plan
from shoal_protocol.votes import quorum

SETTLE_S: Final = 2.0
"""Several times what an answer to a node's first words takes."""
RESTORE_S: Final = 0.5
"""Whoever starts reads its disk before it does anything else; a diary that comes later than this is none."""
LISTEN_S: Final = 10.0
"""By then a node that lost everything has heard what there is to hear: one round of anti-entropy."""


class Franchise:
    """The right to vote about one deployment, and the diary it rests on."""

    def __init__(self, deployment: DeploymentId, node: NodeId) -> None:
        self._deployment = deployment
        self._node = node
        self._diary: Diary | None = None
        self._barred: Epoch | None = None
        self._lost_at: Instant | None = None
        self._settled_at = Instant(0.0)
        self._speakers: dict[NodeId, None] = {}

    @property
    def barred(self) -> Epoch | None:
        """The last epoch in which this node stays silent."""
        return self._barred

    @property
    def settled_at(self) -> Instant:
        """When this node may be sure that it knows all of its past, or that it is new."""
        return self._settled_at

    def remember(self, diary: Diary, now: Instant) -> None:
        """What this node wrote in an earlier life."""
        self._diary = diary
        self._barred = diary.barred
        if diary.lost:
            self._lost_at = now

    def meet(self, now: Instant, *, again: bool) -> None:
        """This node hears of the deployment for the first time, from others or (``again``) from its own disk."""
        self._settled_at = Instant(now + (RESTORE_S if again else SETTLE_S))

    def listen(self, voter: NodeId) -> None:
        """``voter`` spoke about the next plan."""
        self._speakers[voter] = None

    def lose(self, epoch: Epoch | None, now: Instant) -> None:
        """This node has lived before and remembers nothing; the next plan would be of ``epoch``, as far as it knows."""
        self._lost_at = now
        self._barred = epoch

    def advance(self, before: Plan | None, after: Plan, now: Instant) -> None:
        """``after`` is the newest plan, instead of ``before``."""
        if self._lost_at is not None:
            ordered = after.cause is Cause.RECOVERY and now - self._lost_at >= LISTEN_S
            agreed = before is not None and after.epoch == before.epoch + 1 and self._saw_agreement(before)
            if before is not None and (ordered or agreed):
                self._lost_at = None
            else:
                self._barred = Epoch(after.epoch + 1)
        self._speakers.clear()

    def _saw_agreement(self, before: Plan) -> bool:
        heard = [voter for voter in before.voters if voter in self._speakers]
        return len(heard) >= quorum(len(before.voters), before.terms.faulty)

    def open_diary(self, plan: Plan, out: Outbox) -> None:
        """Write an empty diary if ``plan``, about to be stored, makes this node a voter.

        One that is there already, of this epoch or a later one, stays: then it is the chain that was lost.
        """
        if self._node in plan.voters and not self._has_diary(plan):
            self._diary = Diary(self._deployment, Epoch(plan.epoch + 1), self._barred, self._lost_at is not None)
            out.add(Persist(f"vote.{self._deployment}", write(self._diary)))

    def _has_diary(self, plan: Plan) -> bool:
        return self._diary is not None and self._diary.epoch > plan.epoch

    def check(self, plan: Plan, out: Outbox) -> bool:
        """Whether the diary that ``plan``, read back from disk, asks for is there; if not, this node is barred."""
        if self._node not in plan.voters or self._has_diary(plan):
            return True
        self._barred = Epoch(plan.epoch + 1)
        self.open_diary(plan, out)
        return False

    def diary(self, plan: Plan, now: Instant) -> Diary | None:
        """What this node goes on from as a voter about the plan after ``plan``; None: it is none, or not yet."""
        diary, epoch = self._diary, plan.epoch + 1
        if self._node not in plan.voters or now < self._settled_at or diary is None or diary.epoch != epoch:
            return None
        if self._barred is not None and epoch <= self._barred:
            return None
        return replace(diary, barred=self._barred, lost=self._lost_at is not None)

    def spoke(self, plan: Plan) -> bool:
        """Whether this node has spoken about the plan after ``plan``, as far as its diary tells."""
        return self._diary is not None and self._diary.epoch == plan.epoch + 1 and self._diary.memory != Memory()
