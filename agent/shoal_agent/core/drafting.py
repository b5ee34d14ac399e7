"""A decision as a plan that can be proposed: who hosts, who votes next, how the switch is made, by when, and why.

Primaries are the decision's; who stands by for them is found here, out of whoever has room left, unless both were
placed together (``footing``). Where somebody is lacking, the plan's reason says so.

*Break before make* is for the one case in which it cannot be avoided: some host cannot hold the blocks it has beside
those it gets; what it only stands by with it can give back. Every host knows best what it has room for, and says so
when it votes; this is the proposer's estimate.
"""

from collections.abc import Iterator

from shoal_agent.core.crowding import told
from shoal_agent.core.decision import Option, staging_ms, switch_mode
from shoal_agent.core.outlook import Outlook
from shoal_agent.core.plan import hosts_of, voters_for
from shoal_agent.core.problem import NO_DEMAND, stages_of
from shoal_agent.core.standbys import Backing, back_up
from shoal_agent.core.tenure import Tenure
from shoal_protocol.ids import Epoch
from shoal_protocol.limits import REASON_CHARS_MAX
from shoal_protocol.messages import Cause, Plan


def draft(head: Tenure, outlook: Outlook, option: Option, cause: Cause, reason: str) -> Plan:
    """The plan after ``head`` that ``option`` is."""
    before, stages = head.plan, stages_of(option.split)
    backing = back_up(outlook.problem, stages, before.terms.standbys, before.stages)
    if option.stages:
        backing = Backing(option.stages, ())
    return Plan(
        before.deployment,
        Epoch(before.epoch + 1),
        head.digest,
        before.model,
        before.context_tokens_max,
        backing.stages,
        before.terms,
        voters_for(before.deployment, hosts_of(stages), outlook.witnesses, before.terms.faulty, before.voters),
        cause,
        switch_mode(outlook.problem, before.stages, outlook.owned, option.split),
        staging_ms(option.move),
        option.split.score_us,
        _short(reason, "; ".join(_last(outlook, backing.text))),
    )


def _last(outlook: Outlook, lacks: str) -> Iterator[str]:
    """In what crowd it was priced, and who is lacking."""
    if outlook.problem.demand != NO_DEMAND:
        yield told(outlook.problem.demand)
    if lacks:
        yield lacks


def _short(reason: str, last: str) -> str:
    """As many whole clauses as fit, and the ``last`` ones; the story has the rest."""
    end = f"; {last}" if last else ""
    chars_max = REASON_CHARS_MAX - len(end)
    if len(reason) > chars_max:
        reason = reason[:chars_max].rpartition("; ")[0] or reason[:chars_max]
    return reason + end
