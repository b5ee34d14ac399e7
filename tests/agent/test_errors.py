import pytest

from shoal_agent import errors
from shoal_agent.errors import ExitCode, UserError


def test_an_error_says_what_to_do_next():
    assert str(UserError("port 8600 is taken", "--api-port 0")) == "error: port 8600 is taken\n  try: --api-port 0"


def test_an_error_without_advice_is_one_line():
    assert str(UserError("no")) == "error: no"


def test_the_exit_code_of_a_kind_can_be_overruled():
    assert UserError("x").exit_code is ExitCode.FAILED
    assert UserError("x", exit_code=ExitCode.DENIED).exit_code is ExitCode.DENIED


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ConfigError, 3),
        (errors.UnavailableError, 4),
        (errors.DeniedError, 5),
        (errors.NoPlanError, 6),
        (errors.FailedError, 7),
        (errors.TimedOutError, 8),
    ],
)
def test_scripts_may_rely_on_the_exit_codes(kind, code):
    assert kind("x").exit_code == code
    assert issubclass(kind, UserError)


def test_no_two_exit_codes_are_the_same():
    assert len(ExitCode.__members__) == len(set(ExitCode))


def test_the_tree_in_the_docstring_names_every_kind():
    kinds = [kind.__name__ for kind in UserError.__subclasses__() if kind.__module__ == errors.__name__]
    assert all(f"── {name}" in errors.__doc__ for name in kinds)
    assert len(kinds) == 6
