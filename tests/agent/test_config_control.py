from math import inf, nan

import pytest
from pydantic import ValidationError

from shoal_agent.config_control import BudgetSection, ClassSection
from shoal_agent.core.budgets import NO_TERMS, PowerModel, Terms
from shoal_agent.core.service_classes import RequestClass

CHAT = {"name": "chat", "deadline_ms": 20_000.0, "epsilon": 0.05}


def test_sections_are_what_the_core_calls_them():
    assert BudgetSection().terms() == NO_TERMS
    given = {"power_w": 8.0, "idle_w": 4.0, "busy_w": 10.0, "price_per_hour": 0.2, "money_per_hour": 0.1}
    section = BudgetSection(**given, moved_bytes_per_s="1 MB")
    assert section.terms() == Terms(8.0, 0.2, 0.1, 1e6, None, PowerModel(4.0, 10.0))
    assert ClassSection(**CHAT).promise() == RequestClass("chat", 20_000.0, 0.05)
    loose = ClassSection(**CHAT, loss_micronats=50_000)
    assert loose.promise() == RequestClass("chat", 20_000.0, 0.05, 50_000.0)


@pytest.mark.parametrize("name", list(BudgetSection.model_fields))
@pytest.mark.parametrize("bad", [nan, inf, -1.0])
def test_no_budget_is_negative_or_no_number(name, bad):
    with pytest.raises(ValidationError, match=name):
        BudgetSection(**{name: bad})


@pytest.mark.parametrize(
    "changed",
    [{"name": ""}, {"name": "No Name"}, {"deadline_ms": 0.0}, {"deadline_ms": nan}, {"deadline_ms": 600_001.0}]
    + [{"epsilon": share} for share in (0.0, 1.0, nan, -0.1)]
    + [{"loss_micronats": loss} for loss in (-1.0, nan, inf, 10_000_001.0)],
)
def test_no_promise_is_empty_or_endless(changed):
    with pytest.raises(ValidationError, match=next(iter(changed))):
        ClassSection(**CHAT | changed)


def test_what_nobody_can_keep_is_refused():
    with pytest.raises(ValidationError, match="cannot be kept"):
        BudgetSection(power_w=3.0, idle_w=4.0, busy_w=10.0)
