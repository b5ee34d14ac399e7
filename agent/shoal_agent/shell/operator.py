"""How a deployment begins: the operator listens, plans, announces, and waits until every host is ACTIVE.

The operator is needed for this one sentence only. It hears what the nodes say of themselves (``survey``), solves the
split (``core.planner``), and says the result once, signed (``desk``). Each host checks the plan against itself; the
operator's opinion of a host's memory binds nobody. After that the operator can leave for ever: the next epochs are the
voters' affair.

If the same deployment was announced before with another plan, nothing is announced: its hosts would (rightly) refuse
it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from shoal_agent.config import OperatorConfig
from shoal_agent.core.facts import ModelFacts
from shoal_agent.core.plan import hosts_of
from shoal_agent.core.planner import Genesis, plan_genesis
from shoal_agent.core.problem import CANDIDATES_EXACT_MAX, Infeasible, Split, problem_of
from shoal_agent.errors import ConfigError, FailedError
from shoal_agent.shell.desk import Desk, Operator, Publish, Tell, open_desk
from shoal_agent.shell.model_facts import facts_of
from shoal_agent.shell.survey import Heard, Package, able_hosts
from shoal_models.errors import ModelError
from shoal_models.package import Store
from shoal_protocol.codec import encode_plan
from shoal_protocol.errors import MalformedMessage
from shoal_protocol.ids import DeploymentId, Digest, NodeId, digest_of, parse_deployment_id
from shoal_protocol.messages import Objective, Plan, PlanAnnounced, Terms
from shoal_protocol.roster import Role, TrustedRoster
from shoal_protocol.trust import GuardedBlocks

CONTEXT_TOKENS: Final = 2048
"""Sessions are kept room for up to this length, unless the wish names another or the model has less."""


@dataclass(frozen=True, slots=True)
class DeployWish:
    """What is to be deployed, and what is left to the planner."""

    model: str
    """A package of the operator's store."""
    deployment: str = ""
    """What clients call it; the package's name if empty."""
    stages: int | None = None
    """Exactly so many; None: as many as serve the objective."""
    nodes: tuple[str, ...] = ()
    """Ids, or beginnings of ids, of the only nodes to use; empty: whoever is heard."""
    objective: Objective = Objective.LATENCY
    context_tokens: int | None = None
    sessions: int = 2
    dry_run: bool = False
    timeout_s: float = 120.0
    """From the announcement until every host is ACTIVE."""
    zones: tuple[str, ...] = ()
    """Trust zones that may host, for the life of the deployment; empty: any."""
    faulty: int = 0
    """Voters that may lie."""
    gain_permille: int = 200
    operators_min: int = 1
    """Operators it takes to recover the deployment when its voters are lost."""
    standbys: int = 1
    """Nodes that can take the place of each stage's own, where there is memory for them."""
    loss_micronats: int = 0
    """What narrow activations may cost in all."""
    private: int = 0
    """So many first blocks, and the last one, only in ``trusted`` zones."""
    trusted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeployResult:
    """What was planned, and what became of it. ``active`` is False after a dry run."""

    plan: Plan
    digest: Digest
    split: Split
    heard: tuple[Heard, ...]
    active: bool


class Founding:
    """One deployment, from listening to ACTIVE."""

    def __init__(
        self,
        operator: Operator,
        wish: DeployWish,
        facts: ModelFacts,
        package: Package,
        desk: Desk,
        publish: Publish,
        tell: Tell,
    ) -> None:
        self._operator = operator
        self._wish = wish
        self._facts = facts
        self._package = package
        self._desk = desk
        self._publish = publish
        self._tell = tell
        self._deployment = _deployment_id(wish)
        self._wanted = resolve_nodes(operator.roster, wish.nodes)
        _require_operators(operator.roster, wish.operators_min)

    async def run(self) -> DeployResult:
        """The result; a UserError says what stood in the way."""
        await self._desk.connect()
        self._tell("listening for nodes ...")
        await self._desk.listen(self._wanted, self._wish.stages or 1, self._package)
        genesis = self._plan()
        raw = encode_plan(genesis.plan)
        result = DeployResult(genesis.plan, digest_of(raw), genesis.split, self._desk.survey.heard(), active=False)
        self._refuse_another(result)
        if self._wish.dry_run:
            return result
        self._tell(f"announcing plan {result.digest.hex()[:16]} to {len(hosts_of(result.plan.stages))} hosts ...")
        message = PlanAnnounced(raw)
        await self._desk.announce(
            result.plan, result.digest, lambda: self._publish(self._operator.seal(message)), self._wish.timeout_s
        )
        return replace(result, active=True)

    def _plan(self) -> Genesis:
        """Solve the split over those who can host; NoPlanError with a line for each who was looked at."""
        wish, facts = self._wish, self._facts
        terms = terms_of(wish, len(facts.blocks))
        able = able_hosts(self._desk.survey, self._package, self._wanted, self._operator.roster, terms.zones)
        self._tell(f"{len(able.candidates)} of {len(able.faults)} nodes can host {facts.name}")
        context = min(wish.context_tokens or CONTEXT_TOKENS, facts.context_tokens_max)
        problem = problem_of(facts, terms, context, able.candidates)
        voters = able.voters_of(self._deployment, terms)
        genesis = plan_genesis(problem, self._deployment, facts.model, terms, voters)
        if isinstance(genesis, Infeasible):
            raise able.no_plan(genesis)
        return genesis

    def _refuse_another(self, result: DeployResult) -> None:
        known = self._desk.plans.get(self._deployment)
        if known is None or known.digest == result.digest:
            return
        held = ", ".join(f"{s.node[:8]} {s.first_block}-{s.last_block}" for s in known.plan.stages)
        raise FailedError(
            f"{self._deployment} is deployed already, epoch {known.plan.epoch}: {held}",
            "shoal status shows it; deploy under another name with --name",
        )


async def deploy(config: OperatorConfig, wish: DeployWish, tell: Tell) -> DeployResult:
    """Deploy as ``wish`` says, over the brokers of ``config``; a UserError says what stood in the way."""
    facts, package = _package(config, wish.model)
    async with open_desk(config) as (operator, desk, publish):
        return await Founding(operator, wish, facts, package, desk, publish, tell).run()


def _require_operators(roster: TrustedRoster, operators_min: int) -> None:
    """A recovery that takes more operators than there are could never happen."""
    operators = [member for member in roster.members if Role.OPERATOR in member.roles]
    if operators_min > len(operators):
        fault = f"{operators_min} operators must agree to a recovery, {len(operators)} are in the roster"
        raise ConfigError(fault, "shoal roster admit --role operator, or --operators with a lower number")


def _package(config: OperatorConfig, name: str) -> tuple[ModelFacts, Package]:
    try:
        manifest = Store(config.models.store_dir).load(name)
        return facts_of(manifest), Package(manifest.digest, manifest.package_bytes)
    except ModelError as fault:
        raise ConfigError(str(fault), f"shoal model import {name} --store {config.models.store_dir}") from fault


def guarded_ends(blocks: int, private: int, zones: tuple[str, ...]) -> tuple[GuardedBlocks, ...]:
    """The first ``private`` of ``blocks`` blocks, and the last one, in ``zones`` only; nothing if none is private."""
    if private > blocks:
        raise ConfigError(f"--private {private}: the model has {blocks} blocks", f"--private {blocks} is all of it")
    if not private or not zones:
        return ()
    if private >= blocks - 1:
        return (GuardedBlocks(0, blocks - 1, zones),)
    return GuardedBlocks(0, private - 1, zones), GuardedBlocks(blocks - 1, blocks - 1, zones)


def terms_of(wish: DeployWish, blocks: int) -> Terms:
    """What ``wish`` fixes for the life of its deployment of a model of ``blocks`` blocks."""
    if wish.private and not wish.trusted:
        raise ConfigError(f"--private {wish.private} needs zones to trust", "--trusted home")
    return Terms(
        wish.objective,
        wish.stages or 1,
        wish.stages or CANDIDATES_EXACT_MAX,
        wish.sessions,
        zones=wish.zones,
        faulty=wish.faulty,
        operators_min=wish.operators_min,
        gain_permille=wish.gain_permille,
        standbys=wish.standbys,
        loss_micronats=wish.loss_micronats,
        guarded=guarded_ends(blocks, wish.private, wish.trusted),
    )


def _deployment_id(wish: DeployWish) -> DeploymentId:
    try:
        return parse_deployment_id(wish.deployment or wish.model)
    except MalformedMessage as fault:
        raise ConfigError(str(fault), "--name smollm2") from fault


def resolve_nodes(roster: TrustedRoster, names: Iterable[str]) -> frozenset[NodeId]:
    """The members whose ids begin with ``names``; ConfigError if one fits none or several."""
    nodes = set()
    for name in names:
        fits = [member.node for member in roster.members if name and member.node.startswith(name)]
        if len(fits) != 1:
            known = ", ".join(member.node[:8] for member in roster.members if Role.AGENT in member.roles)
            raise ConfigError(f"{name!r} names {len(fits)} members of the roster, not one", f"agents: {known}")
        nodes.add(fits[0])
    return frozenset(nodes)
