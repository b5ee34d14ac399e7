import pytest
from starlette.requests import Request

from shoal_agent.core.service_classes import RequestClass
from shoal_agent.shell.api.errors import ApiError
from shoal_agent.shell.api.promises import DEADLINE_S, class_of, deadline_of
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
    ("said", "most_s", "has_s"),
    [("", 600.0, DEADLINE_S), ("", 0.5, 0.5), ("2.5", 600.0, 2.5), ("2.5", 0.5, 0.5), ("600", 600.0, 600.0)],
)
def test_a_client_may_have_less_time_than_its_class_and_never_more(said, most_s, has_s):
    assert deadline_of(asking(x_deadline_s=said), most_s) == has_s


@pytest.mark.parametrize("said", ["0", "-1", "nan", "soon", "inf", str(REQUEST_DEADLINE_S_MAX + 1)])
def test_what_is_no_deadline_is_refused(said):
    with pytest.raises(ApiError, match="X-Deadline-S"):
        deadline_of(asking(x_deadline_s=said))
