"""What can go wrong for the person at the keyboard, and how the process says so.

::

    ShoalError
    └── UserError           somebody can mend it: a message, a hint what to try, an exit code
        ├── ConfigError
        ├── UnavailableError
        ├── DeniedError
        ├── NoPlanError
        ├── FailedError
        └── TimedOutError

Anything else that reaches the top is a bug of ours: it shows its traceback and exits with ``ExitCode.BUG``.

Exit codes are part of the interface (scripts branch on them); the table is :class:`ExitCode` and it only grows.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a ``shoal`` command ends."""

    OK = 0
    BUG = 1
    """An error nobody foresaw; the traceback is on stderr."""
    USAGE = 2
    """Unknown command or option (what typer itself uses)."""
    CONFIG = 3
    UNAVAILABLE = 4
    DENIED = 5
    NO_PLAN = 6
    FAILED = 7
    TIMED_OUT = 8
    NOT_FOUND = 9
    """No package or catalog entry of that name."""
    CORRUPT = 10
    """Something stored is not what its digest says."""
    INTERRUPTED = 130
    """Ctrl-C, as shells count it: 128 + SIGINT."""


class ShoalError(Exception):
    """Anything this package raises on purpose."""


class UserError(ShoalError):
    """Shown as ``error: message`` and ``try: hint``; ``message`` may have several lines."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "", exit_code: ExitCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if exit_code is not None:
            self.exit_code = exit_code

    def __str__(self) -> str:
        lines = [f"error: {self.message}"]
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)


class ConfigError(UserError):
    """A file, a flag or a key is not as it must be."""

    exit_code = ExitCode.CONFIG


class UnavailableError(UserError):
    """Nobody answers: an agent, a broker."""

    exit_code = ExitCode.UNAVAILABLE


class DeniedError(UserError):
    """It answers, and does not accept our key or certificate."""

    exit_code = ExitCode.DENIED


class NoPlanError(UserError):
    """The nodes that are there cannot carry what was asked for."""

    exit_code = ExitCode.NO_PLAN


class FailedError(UserError):
    """It was begun and did not succeed."""

    exit_code = ExitCode.FAILED


class TimedOutError(UserError):
    """It was begun and did not come to an end in time."""

    exit_code = ExitCode.TIMED_OUT
