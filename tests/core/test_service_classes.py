from math import inf, nan

import pytest

from shoal_agent.core.facts import RejectCode
from shoal_agent.core.service_classes import Classes, RequestClass, counts

CHAT, BATCH = RequestClass("chat", 300.0, 0.05), RequestClass("batch", 60_000.0, 0.2)


def test_a_class_is_found_by_its_name_or_not_at_all():
    classes = Classes([CHAT, BATCH])
    assert classes.names() == ("chat", "batch")
    assert classes.of("batch") is BATCH
    assert classes.of("unknown") is None


def test_every_class_has_its_own_promise():
    classes = Classes([CHAT, BATCH])
    for _ in range(10):
        classes.ended("chat", late=True)
        classes.ended("batch", late=False)
    assert classes.level("chat") == pytest.approx(9.5)
    assert classes.level("batch") == 0.0


def test_z_falls_again_by_epsilon_for_each_that_is_in_time():
    classes = Classes([CHAT])
    classes.ended("chat", late=True)
    for _ in range(19):
        classes.ended("chat", late=False)
    assert classes.level("chat") == pytest.approx(0.0, abs=1e-9), "one in twenty was late, as promised"


@pytest.mark.parametrize("bad", [nan, inf, 0.0, -1.0])
def test_a_deadline_is_a_number_above_zero(bad):
    with pytest.raises(ValueError, match="deadline_ms of class 'chat'"):
        RequestClass("chat", bad, 0.05)


@pytest.mark.parametrize("bad", [nan, 0.0, 1.0, -0.1, 2.0])
def test_a_tolerated_share_is_neither_none_nor_all(bad):
    with pytest.raises(ValueError, match="epsilon of class 'chat'"):
        RequestClass("chat", 300.0, bad)


@pytest.mark.parametrize("bad", [nan, inf, -1.0])
def test_a_tolerated_loss_is_a_number_of_at_least_zero(bad):
    with pytest.raises(ValueError, match="loss_micronats of class 'chat'"):
        RequestClass("chat", 300.0, 0.1, bad)


def test_only_a_class_that_tolerates_loss_keeps_an_account_of_it():
    classes = Classes([CHAT, RequestClass("loose", 300.0, 0.1, 5000.0)])
    assert classes.quality("chat") is None
    assert classes.quality("unknown") is None
    assert classes.quality("loose").tolerated == 5000.0
    assert classes.quality("loose") is classes.quality("loose")


def test_names_are_needed_and_unique():
    with pytest.raises(ValueError, match="needs a name"):
        RequestClass("", 300.0, 0.05)
    with pytest.raises(ValueError, match="'chat' is defined twice"):
        Classes([CHAT, BATCH, CHAT])


def test_who_was_promised_nothing_is_owed_nothing():
    classes = Classes([CHAT, BATCH])
    classes.ended("", late=True)
    classes.ended("unknown", late=True)
    classes.ended("chat", late=True)
    assert classes.owed("chat") == classes.level("chat") == 0.95
    assert classes.owed("batch") == classes.owed("unknown") == classes.owed("") == 0.0


def test_what_no_ingress_could_have_kept_counts_for_nobody():
    assert counts(None)
    assert {code for code in RejectCode if counts(code)} == {
        RejectCode.NOT_READY,
        RejectCode.STARTING,
        RejectCode.OVERLOADED,
        RejectCode.DEADLINE,
        RejectCode.STAGE_LOST,
        RejectCode.INTERNAL,
    }
