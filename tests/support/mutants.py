"""The product, each time with one promise broken; run as a program, it prints which oracle noticed, and at which seed.

A mutant is a function that replaces one decision of the core. It lives in a process of its own.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from shoal_agent.core import control, gate
from shoal_agent.core.admission import KvBudget
from shoal_agent.core.effects import CloseStage
from shoal_agent.core.host import Host
from shoal_agent.core.ingress import Ingress
from shoal_agent.core.outbox import Outbox
from shoal_agent.sim.play import play
from shoal_protocol import envelope
from shoal_protocol.replay import ReplayWindow

SEEDS_MAX: Final = 40


def no_dedup() -> None:
    """The gate takes every copy and every replay."""
    gate.Gate._refuse_copy = lambda *_: None
    ReplayWindow.accept = lambda *_: None


def no_replay_window() -> None:
    """Copies are known by their bytes, but words of an earlier life, or said again, pass."""
    ReplayWindow.accept = lambda *_: None
    gate.Gate._remember = lambda *_: None


def no_signature() -> None:
    """Nobody looks whether a signature covers the bytes."""
    envelope.verify = lambda *_: None


def no_epoch_fence() -> None:
    """A host runs activations of any epoch."""
    judged = Host._activation_fault

    def fault(hosted, header, payload, now):
        opening = hosted.opening
        return judged(hosted, replace(header, deployment=opening.deployment, epoch=opening.epoch), payload, now)

    Host._activation_fault = staticmethod(fault)


def kv_budget_kept() -> None:
    """What a session reserved stays reserved."""
    KvBudget.free = lambda *_: None


def kv_kept() -> None:
    """The engine is never told to free a session's KV."""
    add = Outbox.add
    Outbox.add = lambda self, effect: None if isinstance(effect, CloseStage) else add(self, effect)


def tokens_unordered() -> None:
    """An ingress takes any token for the next one."""
    token = Ingress.token

    def taken(self, peer, header, now, out):
        entry = self._ledger.get(header.session)
        position = header.position if entry is None else len(entry.tokens)
        token(self, peer, replace(header, position=position), now, out)

    Ingress.token = taken


def records_said_once() -> None:
    """Records and phases are not repeated: what was lost stays lost."""
    control.RECORD_S = 1e9


@dataclass(frozen=True)
class Mutant:
    """What is broken, where it shows, and which oracles may notice."""

    breaks: Callable[[], None]
    scenario: str
    oracles: tuple[str, ...]


MUTANTS: Final = {
    "no-dedup": Mutant(no_dedup, "calm", ("accepted",)),
    "no-replay-window": Mutant(no_replay_window, "liar-lite", ("accepted",)),
    "no-signature": Mutant(no_signature, "liar-lite", ("accepted",)),
    "no-epoch-fence": Mutant(no_epoch_fence, "liar-lite", ("epoch-fence",)),
    "kv-budget-kept": Mutant(kv_budget_kept, "calm", ("invariants",)),
    "kv-kept": Mutant(kv_kept, "calm", ("balances",)),
    "tokens-unordered": Mutant(tokens_unordered, "liar-lite", ("tokens", "invariants")),
    "records-said-once": Mutant(records_said_once, "mixed", ("views-converge", "decides")),
}


def main(name: str) -> str:
    mutant = MUTANTS[name]
    mutant.breaks()
    for seed in range(SEEDS_MAX):
        for violation in play(mutant.scenario, seed, 3).violations:
            return f"{violation.oracle} {seed}"
    return "unnoticed"


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1]))
