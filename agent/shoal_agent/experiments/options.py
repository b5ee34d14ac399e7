"""What an experiment is told, and how it tells how far it is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from shoal_agent.errors import ExitCode, UserError

SEEDS_MAX: Final = 10_000
LOAD_MAX: Final = 100.0

Progress = Callable[[int, int, str], None]
"""Runs done, runs in all, and what the last one was."""


@dataclass(frozen=True, slots=True)
class Options:
    """An empty tuple means what the experiment takes by default."""

    seeds: int = 10
    """Seeds 0 .. seeds-1."""
    loads: tuple[float, ...] = ()
    """Multiples of the nominal load."""
    methods: tuple[str, ...] = ()
    regime: str = ""
    trace: str = ""
    width: str = "int8"
    """Of the activations at a cut: "fp32" or "int8"."""
    jobs: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.seeds <= SEEDS_MAX:
            raise wrong(f"{self.seeds} seeds", f"1 to {SEEDS_MAX}")
        for load in self.loads:
            if not 0 < load <= LOAD_MAX:
                raise wrong(f"load {load:g}", f"more than 0, at most {LOAD_MAX:g}")

    def wanted(self, known: tuple[str, ...]) -> tuple[str, ...]:
        """The methods asked for, each of them among ``known``; all of those when none was named."""
        for method in self.methods:
            if method not in known:
                raise wrong(f"no method {method!r} in this experiment", ", ".join(known))
        return self.methods or known

    def one_of(self, what: str, value: str, known: tuple[str, ...]) -> str:
        """``value``, which must be among ``known``; their first when it is empty."""
        if value and value not in known:
            raise wrong(f"no {what} {value!r} in this experiment", ", ".join(known))
        return value or known[0]


def wrong(message: str, hint: str) -> UserError:
    """An option that cannot be meant."""
    return UserError(message, hint, ExitCode.USAGE)


def silent(done: int, total: int, what: str) -> None:
    """A progress that nobody watches."""
    assert 0 <= done <= total, what
