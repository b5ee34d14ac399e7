"""Break glass: operators together replace a plan that nobody can change any more.

A deployment whose voters are lost (too many machines gone for good, or their vote logs) serves on as long as its hosts
live, but cannot change. No agent may decide otherwise: from its side of a network, lost voters and voters that go on
without it look alike. People can tell; so the terms of a deployment say how many operators it takes.

The order is a file that goes from one operator to the next. Whoever runs the command first makes it: it listens to who
is there, takes model, terms and context from the plan in force, and plans for the nodes that were heard, 2^20 epochs
later, above everything that lost voters may still decide. Every operator who runs the same command with that file sees
the plan, checks it against what the brokers know, and adds a signature. With the last one that is needed the order is
announced, until every host has opened its blocks. Running it once more announces it again.

The file holds nothing secret: signatures and a plan. Nobody can change either without the others noticing.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from shoal_agent.config import OperatorConfig
from shoal_agent.core.facts import ModelFacts
from shoal_agent.core.plan import hosts_of
from shoal_agent.core.planner import split_model
from shoal_agent.core.problem import Infeasible, problem_of, stages_of, with_fewer
from shoal_agent.core.standbys import back_up
from shoal_agent.errors import ConfigError, DeniedError, FailedError
from shoal_agent.shell.desk import ANNOUNCE_S, Desk, InForce, Operator, Publish, Tell, open_desk
from shoal_agent.shell.files import write_public
from shoal_agent.shell.model_facts import facts_of
from shoal_agent.shell.operator import resolve_nodes
from shoal_agent.shell.survey import Package, able_hosts
from shoal_models.errors import ModelError
from shoal_models.package import Store
from shoal_protocol.codec import KIND_OF, decode_message, decode_plan, encode_message, encode_plan
from shoal_protocol.errors import BadSignature, RemoteProtocolError
from shoal_protocol.ids import DeploymentId, Digest, Epoch, Instant, NodeId, digest_of
from shoal_protocol.limits import ENVELOPE_BYTES_MAX, EPOCH_LEAP, REASON_CHARS_MAX
from shoal_protocol.messages import Cause, Plan, RecoveryOrdered
from shoal_protocol.roster import Role
from shoal_protocol.votes import open_recovery, sign_recovery, verify_approval

REASON: Final = "operators replaced a plan whose voters are lost"


@dataclass(frozen=True, slots=True)
class RecoverWish:
    """Which deployment, by which order, on which nodes."""

    deployment: DeploymentId
    file: Path
    """The order: made if it is not there."""
    nodes: tuple[str, ...] = ()
    """Ids, or beginnings of ids, of the only nodes to use for a new order; empty: whoever is heard."""
    dry_run: bool = False
    timeout_s: float = 120.0
    """From the announcement until every host is ACTIVE."""


@dataclass(frozen=True, slots=True)
class RecoverResult:
    """The order as it stands, and what became of it."""

    plan: Plan
    digest: Digest
    signed: tuple[NodeId, ...]
    operators_min: int
    active: bool = False

    @property
    def missing(self) -> int:
        """Signatures that are still needed."""
        return max(0, self.operators_min - len(self.signed))


class Recovering:
    """One operator's part in one order."""

    def __init__(
        self, operator: Operator, wish: RecoverWish, store: Store, desk: Desk, publish: Publish, tell: Tell
    ) -> None:
        self._operator = operator
        self._wish = wish
        self._store = store
        self._desk = desk
        self._publish = publish
        self._tell = tell

    async def run(self) -> RecoverResult:
        """The result; a UserError says what stood in the way."""
        order = read_order(self._wish.file, self._wish.deployment)
        wanted = resolve_nodes(self._operator.roster, self._wish.nodes)
        await self._desk.connect()
        known = await self._in_force()
        if order is None:
            order = RecoveryOrdered(encode_plan(await self._plan(known, wanted)), ())
        order = self._sign(order)
        self._check(order, known)
        signed = tuple(ballot.node for ballot in order.approvals)
        result = RecoverResult(decode_plan(order.plan), digest_of(order.plan), signed, known.plan.terms.operators_min)
        if self._wish.dry_run:
            return result
        write_order(self._wish.file, order)
        if result.missing:
            return result
        self._tell(f"announcing plan {result.digest.hex()[:16]} to {len(hosts_of(result.plan.stages))} hosts ...")
        await self._desk.announce(
            result.plan, result.digest, lambda: self._publish(self._operator.seal(order)), self._wish.timeout_s
        )
        return replace(result, active=True)

    async def _in_force(self) -> InForce:
        """The newest plan that brokers know of; they hand it out at once, if they have one."""
        desk, name = self._desk, self._wish.deployment
        await desk.wait(lambda: name in desk.plans, Instant(desk.clock.now() + ANNOUNCE_S))
        known = desk.plans.get(name)
        if known is None:
            there = ", ".join(sorted(desk.plans)) or "none"
            hint = (
                "shoal status shows what agents serve; a broker that lost its memory learns a plan with its next epoch"
            )
            raise FailedError(f"no plan of {name} is in force; deployments that are: {there}", hint)
        return known

    async def _plan(self, known: InForce, wanted: frozenset[NodeId]) -> Plan:
        """The replacement: as the planner would have it for who is there, under the terms that always held."""
        before = known.plan
        facts, package = self._package(before.model)
        self._tell("listening for nodes ...")
        await self._desk.listen(wanted, 1, package)
        roster = self._operator.roster
        able = able_hosts(self._desk.survey, package, wanted, roster, before.terms.zones)
        self._tell(f"{len(able.candidates)} of {len(able.faults)} nodes can host {facts.name}")
        problem = problem_of(facts, before.terms, before.context_tokens_max, able.candidates)
        # As many stages as the terms ask for; if that does not fit, as many as there are nodes; if need be, one.
        split = split_model(problem)
        for fewer in (len(able.candidates), 1):
            if isinstance(split, Infeasible) and 0 < fewer < problem.stages_min:
                split = split_model(with_fewer(problem, fewer))
        if isinstance(split, Infeasible):
            raise able.no_plan(split)
        backing = back_up(problem, stages_of(split), before.terms.standbys, before.stages)
        reason = f"{REASON}; {backing.text}" if backing.lacks else REASON
        return replace(
            before,
            epoch=Epoch(before.epoch + EPOCH_LEAP),
            parent=known.digest,
            stages=backing.stages,
            voters=able.voters_of(before.deployment, before.terms)(hosts_of(backing.stages)),
            cause=Cause.RECOVERY,
            score_us=split.score_us,
            reason=reason[:REASON_CHARS_MAX],
        )

    def _package(self, model: Digest) -> tuple[ModelFacts, Package]:
        try:
            manifest = self._store.find(model)
        except ModelError as fault:
            hint = "import into the operator's store the package that was deployed: shoal model import"
            raise ConfigError(str(fault), hint) from fault
        return facts_of(manifest), Package(manifest.digest, manifest.package_bytes)

    def _sign(self, order: RecoveryOrdered) -> RecoveryOrdered:
        """``order`` with this operator's signature; one is enough."""
        who = self._operator
        if any(ballot.node == who.node for ballot in order.approvals):
            return order
        ballot = sign_recovery(who.sealer, who.roster.cluster, order.plan)
        return replace(order, approvals=(*order.approvals, ballot))

    def _check(self, order: RecoveryOrdered, known: InForce) -> None:
        """Raise unless agents would take the order once it has signatures enough, and each it has is an operator's."""
        roster = self._operator.roster
        for ballot in order.approvals:
            member = roster.member(ballot.node)
            if member is None or Role.OPERATOR not in member.roles:
                raise DeniedError(f"{self._wish.file}: {ballot.node} signed it and is no operator")
            try:
                verify_approval(member.public_key, ballot.signature, roster.cluster, order.plan)
            except BadSignature as fault:
                hint = "it was changed after it was signed: remove the file, and begin with a new one"
                raise DeniedError(f"{self._wish.file}: {ballot.node} did not sign this plan", hint) from fault
        if digest_of(order.plan) == known.digest:
            return
        try:
            open_recovery(order, known.raw, roster, roster.cluster)
        except BadSignature:
            assert len(order.approvals) < known.plan.terms.operators_min, "each one was checked"
        except RemoteProtocolError as fault:
            hint = "the order is out of date: remove the file, and begin with a new one"
            raise FailedError(f"{self._wish.file}: {fault}", hint) from fault


def read_order(file: Path, deployment: DeploymentId) -> RecoveryOrdered | None:
    """The order in ``file``, None if there is none; ConfigError if it is none or of another deployment."""
    try:
        with file.open("rb") as stream:
            data = stream.read(ENVELOPE_BYTES_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise ConfigError(f"{file}: {fault.strerror}") from fault
    try:
        order = decode_message(KIND_OF[RecoveryOrdered], data)
        assert isinstance(order, RecoveryOrdered), "the number says so"
        plan = decode_plan(order.plan)
    except RemoteProtocolError as fault:
        raise ConfigError(f"{file} is no order: {fault}", "--order FILE names the file of a recovery") from fault
    if plan.deployment != deployment:
        raise ConfigError(f"{file} recovers {plan.deployment}, not {deployment}", "--order with another file")
    return order


def write_order(file: Path, order: RecoveryOrdered) -> None:
    """``order`` into ``file``, for the next operator; ConfigError if it cannot be written."""
    try:
        write_public(file, encode_message(order)[1])
    except OSError as fault:
        raise ConfigError(f"{file}: {fault.strerror}", "--order FILE in a folder you may write to") from fault


async def recover(config: OperatorConfig, wish: RecoverWish, tell: Tell) -> RecoverResult:
    """Take part in an order as ``wish`` says, over the brokers of ``config``."""
    async with open_desk(config) as (operator, desk, publish):
        return await Recovering(operator, wish, Store(config.models.store_dir), desk, publish, tell).run()
