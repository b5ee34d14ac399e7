"""What there is to plan with, and what an answer looks like: the planner's question and answer, as values.

A problem is everything the planner looks at and nothing else, frozen and comparable: whoever is asked the same thing
again need not think again, and the effect that asks for a solution can cross the border to another thread.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from shoal_agent.core.facts import BlockFacts, ModelFacts, Width, on_wire
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import Objective, PlanStage, Terms
from shoal_protocol.trust import zones_by_block

CANDIDATES_EXACT_MAX: Final = 8
"""Nodes the exact search looks at: 256 masks; one more node doubles time and memory."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that may host a stage, as it described itself; ``memory_bytes`` is what it offers."""

    node: NodeId
    speed_macs_per_s: int
    memory_bytes: int
    busy_permille: int = 0
    """What other programs take of its processors."""
    waiting_permille: int = 0
    """How much of the time its processors are at work for other deployments: a session waits in line behind them."""
    zone: str = ""
    """The trust zone it stands in."""


LOSS_STEPS: Final = 32
"""In so many parts of a deployment's budget of quality losses are counted: the search keeps a row for every sum."""
AS_IT_IS: Final = Width("")
"""What a cut carries if nobody names another width: the block's own output."""


@dataclass(frozen=True, slots=True)
class Link:
    """One direction between two nodes."""

    rtt_us: int
    bytes_per_s: int


LAN: Final = Link(rtt_us=500, bytes_per_s=100_000_000)
"""What a pair nobody measured is taken for: gigabit Ethernet with TLS on top."""
RELAY: Final = Link(rtt_us=5 * LAN.rtt_us, bytes_per_s=LAN.bytes_per_s // 5)
"""A link through brokers: a fifth of what the direct one carries, measured with mosquitto on loopback, five times the
round trip of a small frame. The round trip is only a guess until it is measured, as any link's is."""


@dataclass(frozen=True, slots=True)
class Links:
    """What is known of the links: measured ordered pairs, what is usual at a node, and ``default`` where nothing is.

    A pair that was not measured is taken for the worse of what is usual at its ends. Anything better would make the
    unknown attractive: the planner would move to a link because nobody has looked at it, and away again after.
    """

    default: Link = LAN
    measured: Mapping[tuple[NodeId, NodeId], Link] = field(default_factory=dict, hash=False)
    usual: Mapping[NodeId, Link] = field(default_factory=dict, hash=False)
    """Both are compared, but left out of the hash: problems that differ here alone are rare."""

    def between(self, sender: NodeId, receiver: NodeId) -> Link:
        """The link from ``sender`` to ``receiver``."""
        known = self.measured.get((sender, receiver))
        if known is not None:
            return known
        one, other = self.usual.get(sender), self.usual.get(receiver)
        if one is None or other is None:
            return one or other or self.default
        return Link(max(one.rtt_us, other.rtt_us), min(one.bytes_per_s, other.bytes_per_s))


@dataclass(frozen=True, slots=True)
class Workload:
    """What the hosts must have room for, and the session whose time is compared."""

    context_tokens_max: int
    sessions: int = 1
    """Sessions of the full context each host keeps KV for."""
    prompt_tokens: int = 128
    answer_tokens: int = 128


@dataclass(frozen=True, slots=True)
class Demand:
    """What all clients of a deployment together ask for: tokens they bring, and are answered, in a thousand seconds."""

    prompt_tokens_per_ks: int = 0
    answer_tokens_per_ks: int = 0


NO_DEMAND: Final = Demand()
"""Nobody asks: a session is alone."""


@dataclass(frozen=True, slots=True)
class SplitProblem:
    """Everything the planner looks at. ``ingress`` None: any node may be it, so the way in and out is not counted."""

    blocks: tuple[BlockFacts, ...]
    reference_macs_per_s: int
    candidates: tuple[Candidate, ...]
    workload: Workload
    links: Links = field(default_factory=Links)
    objective: Objective = Objective.LATENCY
    stages_min: int = 1
    stages_max: int = CANDIDATES_EXACT_MAX
    ingress: NodeId | None = None
    shared_bytes: int = 0
    widths: tuple[Width, ...] = ()
    """In which activations may travel, the model's certified ones; none named: as they are."""
    loss_max: int | None = None
    """What all cuts together may take of the quality."""
    zones: tuple[tuple[str, ...], ...] = ()
    """For each block the trust zones that may hold it, none named: any. For no block at all: no bounds."""
    u_shape: bool = False
    """Whether one node may hold the first blocks and the last ones, others what is between: the ingress, if there is
    one, else anybody."""
    nodes_min: int = 1
    """So many nodes at least: the two ends of a U are two stages, and one node."""
    demand: Demand = NO_DEMAND
    """In what crowd the session is whose time is compared."""


@dataclass(frozen=True, slots=True)
class SplitStage:
    """One stage of an answer. Times are per token answered, the prompt's share included; memory counts KV."""

    node: NodeId
    first_block: int
    last_block: int
    time_us: int
    link_us: int
    """Into this stage, from the one before or from the ingress."""
    memory_bytes: int
    width: str = ""
    """The element type its input travels in; empty: as it is."""


@dataclass(frozen=True, slots=True)
class Rival:
    """A candidate the best split leaves out, and the best score any split reaches that gives it a stage.

    None: no split with it fits. Where anybody may hold both ends, U's are not counted: to find what each would cost
    with each node takes too long.
    """

    node: NodeId
    score_us: int | None


@dataclass(frozen=True, slots=True)
class Split:
    """A split and its price.

    ``score_us``: per token answered, the whole way (LATENCY) or the busiest part (THROUGHPUT).
    """

    stages: tuple[SplitStage, ...]
    score_us: int
    rivals: tuple[Rival, ...] = ()
    """Those that were searched and are not in it, by node id; a price without a search names none."""


@dataclass(frozen=True, slots=True)
class Infeasible:
    """No split exists; ``reason`` is a sentence with the numbers, ``nodes`` one line for each candidate."""

    reason: str
    nodes: tuple[str, ...]


def problem_of(
    facts: ModelFacts,
    terms: Terms,
    context_tokens_max: int,
    candidates: tuple[Candidate, ...],
    links: Links = Links(),
    demand: Demand = NO_DEMAND,
) -> SplitProblem:
    """How ``facts`` are split among ``candidates`` under the ``terms`` of a deployment.

    Without a budget of quality there is nothing to choose: activations travel as they are. Where both ends are guarded
    one node may have to hold both, and terms count stages. Elsewhere a U is one shape among others: terms that ask for
    so many stages want as many nodes; and where throughput is asked for it is not looked for, because a node that does
    both ends does no more, and to find out how little better its cuts are takes half a second.
    """
    narrow = terms.loss_micronats > 0
    zones = zones_by_block(terms.guarded, len(facts.blocks))
    guarded = ends_guarded(zones)
    return SplitProblem(
        facts.blocks,
        facts.reference_macs_per_s,
        candidates,
        Workload(context_tokens_max, terms.sessions, terms.prompt_tokens, terms.answer_tokens),
        links,
        terms.objective,
        terms.stages_min,
        terms.stages_max,
        None,
        facts.shared_bytes,
        _in_steps(facts.widths, terms.loss_micronats) if narrow else (),
        LOSS_STEPS if narrow else None,
        zones,
        u_shape=guarded or terms.objective is Objective.LATENCY,
        nodes_min=1 if guarded else terms.stages_min,
        demand=demand,
    )


def ends_guarded(zones: tuple[tuple[str, ...], ...]) -> bool:
    """Whether not everybody may hold the first block, nor the last one."""
    return bool(zones and zones[0] and zones[-1])


def with_fewer(problem: SplitProblem, stages_min: int) -> SplitProblem:
    """``problem``, where ``stages_min`` stages are enough."""
    return replace(problem, stages_min=stages_min, nodes_min=min(problem.nodes_min, stages_min))


def _in_steps(widths: tuple[Width, ...], budget: int) -> tuple[Width, ...]:
    """``widths`` with their losses in LOSS_STEPS of the ``budget``, rounded up."""
    return tuple(replace(width, loss=-(-width.loss * LOSS_STEPS // budget)) for width in widths)


def stages_of(split: Split) -> tuple[PlanStage, ...]:
    """``split`` as a plan has it."""
    return tuple(PlanStage(s.node, s.first_block, s.last_block, width=on_wire(s.width)) for s in split.stages)
