"""Whether a request comes in: what it will have to wait for before it is weighed against its promise.

Asked once, when it arrives, by the rule of ``forecast``. What each of its calls of a light service will take is that of
the best place for it (here, or where digests say that it is better); of a service that this node has not got, the mean
of the nodes that have it, for any of them may get the call.

*A single generation* is judged by its light services alone. What its stages take is not known before its prompt is
tokens; ``prospects`` judges that with the same deadline. One of no class was promised nothing but the longest deadline
there is, and is judged by its stages alone.

*A run of a pipeline* is judged as a whole, by the longest way through its graph, before any step is begun: half an
answer is none, and what the first steps did would be lost. So its generations count too, with prompts and answers as
long as they were lately (``habits``), by the formula of ``prospects``. What was never measured takes no time: a
pipeline that cannot be predicted yet comes in, and its steps are judged one by one, as requests of their own. They are
judged so in any case: what was on time at the door may be late on its way. A run of no class has its deadline only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from shoal_agent.core.dispatch import Offer
from shoal_agent.core.events import PipelineArrived, StepAhead
from shoal_agent.core.facts import ChatPrompt, GenerationRequest, Prompt, TextPrompt
from shoal_agent.core.forecast import Admitted, Refused, Step, finish_ms, judge
from shoal_agent.core.movers import Movers
from shoal_agent.core.pipeline_run import AT_ONCE
from shoal_agent.core.queues import SLOT_S
from shoal_agent.core.services import ServiceKind, service_name
from shoal_agent.core.tables import Tables
from shoal_protocol.ids import DeploymentId, Digest, Instant
from shoal_protocol.messages import Plan

WORTH: Final = 256.0
"""Of an answer, in levels of each service it goes through: four megabytes of text that wait are too much for anybody
whose class is owed nothing."""
SLOT_MS: Final = SLOT_S * 1000.0
TOKEN_BYTES: Final = 4
_WITH_TEMPLATE: Final = (ServiceKind.CHAT_TEMPLATE, ServiceKind.TOKENIZER)

Takes = Callable[[DeploymentId, int, int | None, int], float | None]
"""How long a generation will take on its stages (``Ingress.takes_s``)."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One step of the way: its calls, one after another, and what its stages take after them."""

    after: tuple[int, ...]
    offers: tuple[Offer, ...]
    stages_ms: float = 0.0

    @property
    def step(self) -> Step:
        """As ``forecast`` sees it."""
        transfer = SLOT_MS * sum(offer.transfer_slots for offer in self.offers)
        return Step(self.after, transfer, SLOT_MS * sum(offer.wait_slots for offer in self.offers), self.stages_ms)


def judged(
    request: GenerationRequest, plan: Plan, tables: Tables, movers: Movers, now: Instant
) -> Admitted | Refused | None:
    """The word on a generation; None if the request is of no class of this ingress."""
    promise = tables.classes.of(request.kind)
    if promise is None:
        return None
    chat, size = isinstance(request.prompt, ChatPrompt), _bytes_of(request.prompt)
    offers = _reading(plan.model, size, tables, movers, tables.classes.level(promise.name), now, chat=chat)
    return _weighed([Leg((), offers)], promise.deadline_ms, request.kind, tables)


def legs_of(event: PipelineArrived, tables: Tables, movers: Movers, takes: Takes, now: Instant) -> list[Leg]:
    """The steps of a run as they are predicted, in the run's order."""
    owed = tables.classes.owed(event.kind)
    return [
        _call(step, tables, movers, owed, now)
        if step.model is None
        else _generation(step, step.model, tables, movers, takes, owed, now)
        for step in event.steps
    ]


def judged_run(event: PipelineArrived, legs: Sequence[Leg], tables: Tables) -> Admitted | Refused:
    """The word on a run of a pipeline."""
    return _weighed(legs, event.deadline_s * 1000.0, event.kind, tables)


def _weighed(legs: Sequence[Leg], deadline_ms: float, kind: str, tables: Tables) -> Admitted | Refused:
    offers = [offer for leg in legs for offer in leg.offers]
    promised = tables.classes.of(kind) is not None
    return judge(
        finish_ms([leg.step for leg in legs], AT_ONCE),
        deadline_ms,
        level=tables.classes.owed(kind),
        late_chance=0.0,
        pressure=sum(offer.pressure for offer in offers) if promised else 0.0,
        work=1.0,
        worth=WORTH * len(offers),
    )


def _call(step: StepAhead, tables: Tables, movers: Movers, owed: float, now: Instant) -> Leg:
    if step.service in tables.services:
        return Leg(step.after, (movers.best(step.service, step.request_bytes, now, owed),))
    offer = movers.abroad(step.service, step.request_bytes, now)
    return Leg(step.after, () if offer is None else (offer,))


def _generation(
    step: StepAhead, model: DeploymentId, tables: Tables, movers: Movers, takes: Takes, owed: float, now: Instant
) -> Leg:
    tenure = tables.tenures.serving(model)
    if tenure is None:
        return Leg(step.after, ())
    offers = _reading(tenure.plan.model, step.request_bytes, tables, movers, owed, now, chat=step.chat)
    prompt = step.prompt_tokens or step.request_bytes // TOKEN_BYTES
    stages_s = takes(model, prompt, step.answer_tokens, step.answer_tokens_max)
    return Leg(step.after, offers, 1000.0 * (stages_s or 0.0))


def _reading(
    model: Digest, size: int, tables: Tables, movers: Movers, owed: float, now: Instant, *, chat: bool
) -> tuple[Offer, ...]:
    """The calls that make tokens of a prompt."""
    names = [service_name(kind, model) for kind in (_WITH_TEMPLATE if chat else _WITH_TEMPLATE[1:])]
    return tuple(movers.best(name, size, now, owed) for name in names if name in tables.services)


def _bytes_of(prompt: Prompt) -> int:
    match prompt:
        case ChatPrompt(body):
            return len(body)
        case TextPrompt(text):
            return len(text)
        case _:
            return TOKEN_BYTES * len(prompt.tokens)
