import contextlib
import time
from dataclasses import dataclass, field

import pytest
from starlette.requests import Request

from shoal_agent.core.facts import RejectCode
from shoal_agent.core.service_classes import RequestClass, counts
from shoal_agent.shell.api.errors import ApiError, refused
from shoal_agent.shell.api.promises import DEADLINE_S, Promise, class_of, kept, promise_of
from shoal_agent.shell.api.streaming import ClientGone
from shoal_protocol.limits import REQUEST_DEADLINE_S_MAX

QUICK, CALM = RequestClass("quick", 500.0, 0.1), RequestClass("calm", 20_000.0, 0.01)


def asking(**headers):
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


def test_a_client_names_its_class_or_has_the_default_or_none():
    assert class_of(asking(x_shoal_class="calm"), (QUICK, CALM), "quick") is CALM
    assert class_of(asking(), (QUICK, CALM), "quick") is QUICK
    assert class_of(asking(), (QUICK, CALM)) is None


@pytest.mark.parametrize("name", ["slow", ""])
def test_an_unknown_class_is_refused_with_those_that_are_known(name):
    with pytest.raises(ApiError, match="Known: quick, calm") as caught:
        class_of(asking(x_shoal_class=name), (QUICK, CALM))
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "X-Shoal-Class", "unknown_class")


@pytest.mark.parametrize(
    ("said", "kind", "has_s"),
    [("", "", DEADLINE_S), ("", "quick", 0.5), ("2.5", "", 2.5), ("2.5", "quick", 0.5), ("600", "calm", 20.0)],
)
def test_a_client_may_have_less_time_than_its_class_and_never_more(said, kind, has_s):
    promise = promise_of(asking(x_deadline_s=said), (QUICK, CALM), kind)
    assert promise.kind == kind
    assert has_s - 0.4 < promise.left_s <= has_s


@pytest.mark.parametrize("said", ["0", "-1", "nan", "soon", "inf", str(REQUEST_DEADLINE_S_MAX + 1)])
def test_what_is_no_deadline_is_refused(said):
    with pytest.raises(ApiError, match="X-Deadline-S"):
        promise_of(asking(x_deadline_s=said), ())


@dataclass
class Ends:
    told: list[tuple[str, bool]] = field(default_factory=list)

    def ended(self, kind, *, late):
        self.told.append((kind, late))


@pytest.mark.parametrize(
    ("kind", "left_s", "fault", "told"),
    [
        ("quick", 5.0, None, [("quick", False)]),
        ("quick", -1.0, None, [("quick", True)]),
        ("quick", 5.0, ApiError(400, "why"), [("quick", True)]),
        *(("quick", 5.0, refused(code, "why"), [("quick", True)] * counts(code)) for code in RejectCode),
        ("quick", 5.0, ClientGone(), []),
        ("", 5.0, None, []),
        ("", 5.0, ApiError(400, "why"), []),
    ],
)
def test_one_request_of_its_class_is_over(kind, left_s, fault, told):
    ends = Ends()
    with contextlib.suppress(ApiError, ClientGone), kept(ends, Promise(kind, time.monotonic() + left_s)):
        if fault is not None:
            raise fault
    assert ends.told == told


def test_no_time_is_less_than_none():
    assert Promise("", time.monotonic() - 1).left_s == 0.0
