"""What an operator promises and what he allows: request classes and budgets, as the core has them.

A section is checked by building the core's own value from it, so that a configuration cannot hold what a rule refuses.
"""

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from shoal_agent.config_values import Amount, Bytes, Limit, Name, Section
from shoal_agent.core.budgets import PowerModel, Terms
from shoal_agent.core.service_classes import Classes, RequestClass
from shoal_protocol.limits import LOSS_MICRONATS_MAX, REQUEST_DEADLINE_S_MAX


class BudgetSection(Section):
    """What the node may draw, cost and fetch on average, and how hot it may get; what is not set is not limited."""

    power_w: Limit | None = None
    idle_w: Amount | None = None
    busy_w: Amount | None = None
    price_per_hour: Amount = 0.0
    money_per_hour: Limit | None = None
    moved_bytes_per_s: Bytes | None = None
    heat_limit_c: Limit | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.terms()
        return self

    def terms(self) -> Terms:
        """The same for the core; ValueError if no node can keep them all."""
        if (self.idle_w is None) != (self.busy_w is None):
            raise ValueError("idle_w and busy_w make a power model only together")
        model = None if self.idle_w is None or self.busy_w is None else PowerModel(self.idle_w, self.busy_w)
        return Terms(
            power_w=self.power_w,
            price_per_hour=self.price_per_hour,
            money_per_hour=self.money_per_hour,
            moved_bytes_per_s=self.moved_bytes_per_s,
            heat_limit_c=self.heat_limit_c,
            power=model,
        )


class ClassSection(Section):
    """A kind of requests: clients name it, and at most a share ``epsilon`` of them is later than ``deadline_ms``.

    A token of their answers may lose ``loss_micronats`` on average.
    """

    name: Name
    deadline_ms: Annotated[Limit, Field(le=1000 * REQUEST_DEADLINE_S_MAX)]
    epsilon: Annotated[float, Field(gt=0, lt=1)]
    loss_micronats: Annotated[Amount, Field(le=LOSS_MICRONATS_MAX)] = 0.0

    def promise(self) -> RequestClass:
        """The same for the core."""
        return RequestClass(self.name, self.deadline_ms, self.epsilon, self.loss_micronats)


def _distinct(sections: tuple[ClassSection, ...]) -> tuple[ClassSection, ...]:
    Classes(section.promise() for section in sections)
    return sections


RequestClasses = Annotated[tuple[ClassSection, ...], Field(max_length=16), AfterValidator(_distinct)]
