"""Whether a request of a class comes in: what its light services have to do before it is weighed against its promise.

Asked once, when it arrives, by the rule of ``forecast``: from the best place for each call (here, or where digests say
that it is better) follow its wait and its pressure, from the class deadline and Z. What its stages take is not known
before its prompt is tokens; ``prospects`` judges that with the same deadline. A request of no class was promised
nothing but the longest deadline there is, and is judged by its stages alone.
"""

from typing import Final

from shoal_agent.core.facts import ChatPrompt, GenerationRequest, Prompt, TextPrompt
from shoal_agent.core.forecast import Admitted, Refused, Step, judge
from shoal_agent.core.movers import Movers
from shoal_agent.core.queues import SLOT_S
from shoal_agent.core.services import ServiceKind, service_name
from shoal_agent.core.tables import Tables
from shoal_protocol.ids import Instant
from shoal_protocol.messages import Plan

WORTH: Final = 256.0
"""Of an answer, in levels of each service it goes through: four megabytes of text that wait are too much for anybody
whose class is owed nothing."""
SLOT_MS: Final = SLOT_S * 1000.0
TOKEN_BYTES: Final = 4
_WITH_TEMPLATE: Final = (ServiceKind.CHAT_TEMPLATE, ServiceKind.TOKENIZER)


def judged(
    request: GenerationRequest, plan: Plan, tables: Tables, movers: Movers, now: Instant
) -> Admitted | Refused | None:
    """The word of ``forecast``; None if the request is of no class of this ingress."""
    promise = tables.classes.of(request.kind)
    if promise is None:
        return None
    kinds = _WITH_TEMPLATE if isinstance(request.prompt, ChatPrompt) else _WITH_TEMPLATE[1:]
    names = [service_name(kind, plan.model) for kind in kinds]
    size, level = _bytes_of(request.prompt), tables.classes.level(promise.name)
    offers = [movers.best(name, size, now, level) for name in names if name in tables.services]
    steps = [
        Step(tuple(range(index))[-1:], SLOT_MS * offer.transfer_slots, SLOT_MS * offer.wait_slots, 0.0)
        for index, offer in enumerate(offers)
    ]
    return judge(
        promise,
        steps,
        level=level,
        late_chance=0.0,
        pressure=sum(offer.pressure for offer in offers),
        work=1.0,
        worth=WORTH * len(offers),
    )


def _bytes_of(prompt: Prompt) -> int:
    match prompt:
        case ChatPrompt(body):
            return len(body)
        case TextPrompt(text):
            return len(text)
        case _:
            return TOKEN_BYTES * len(prompt.tokens)
