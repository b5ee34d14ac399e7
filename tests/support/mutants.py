"""The product, each time with one promise broken; run as a program, it prints which oracle noticed, and at which seed.

A mutant is a function that replaces one decision of the core. It lives in a process of its own.

One promise is broken elsewhere: that a voter keeps to its lock. In whole nodes a proposer takes up what a quorum has
prevoted, so another plan hardly ever comes before a locked voter (2,000 worlds did not show one);
``tests/property/test_agreement.py`` breaks it where only the rules are, and sees two decisions within 600.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from shoal_agent.core import agreement, franchise, gate, sitting
from shoal_agent.core.admission import KvBudget
from shoal_agent.core.council import Council
from shoal_agent.core.effects import CloseStage, Persist
from shoal_agent.core.ingress import Ingress
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.runner import Runner
from shoal_agent.sim import machine
from shoal_agent.sim.play import play
from shoal_protocol import envelope, votes
from shoal_protocol.replay import ReplayWindow

SEEDS_CI: Final = 40
SEEDS_MAX: Final = 2000
COMMIT_S: Final = 5.0
"""How long a file system keeps writes to itself by default."""


def no_dedup() -> None:
    """The gate takes every copy and every replay."""
    gate.Gate._refuse_copy = lambda *_: None
    ReplayWindow.accept = lambda *_: None


def no_replay_window() -> None:
    """Copies are known by their bytes, but words of an earlier life, or said again, pass."""
    ReplayWindow.accept = lambda *_: None
    gate.COPIES_MAX = 0


def no_signature() -> None:
    """Nobody looks whether a signature covers the bytes."""
    envelope.verify = lambda *_: None


def no_epoch_fence() -> None:
    """A host runs activations of any epoch."""

    def addressed(self, header):
        found = [hosted for hosted in self._holdings.of(header.session) if hosted.stage == header.stage]
        return found[0] if found else None

    Runner._addressed = addressed


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


def quorum_minus_one() -> None:
    """One vote less than a quorum decides."""
    for module in (votes, agreement, sitting, franchise):
        module.quorum = lambda voters, faulty: max(1, (voters + faulty) // 2)


def no_fsync() -> None:
    """A crash loses what was written in the last seconds, as a disk without fsync does."""
    perform, crash = machine.Machine._perform, machine.Machine.crash

    def written(self, effect):
        if isinstance(effect, Persist):
            unsafe = self.__dict__.setdefault("unsafe", [])
            unsafe.append((self._agenda.now, effect.name, self.disk.get(effect.name)))
        perform(self, effect)

    def crashed(self, *, amnesia):
        for at_s, name, before in reversed(self.__dict__.get("unsafe", [])):
            if self._agenda.now - at_s < COMMIT_S:
                self.disk.pop(name) if before is None else self.disk.update({name: before})
        self.unsafe = []
        crash(self, amnesia=amnesia)

    machine.Machine._perform, machine.Machine.crash = written, crashed


def no_certificate_gossip() -> None:
    """Certificates of others are not heard: everybody has to collect the votes itself."""
    Council.certified = lambda *_: []


@dataclass(frozen=True)
class Mutant:
    """What is broken, where it shows, and which oracles may notice."""

    breaks: Callable[[], None]
    scenario: str
    oracles: tuple[str, ...]
    nodes: int = 3
    seed: int = 0
    """From here on it is found at once."""


MUTANTS: Final = {
    "no-dedup": Mutant(no_dedup, "calm", ("accepted",)),
    "no-replay-window": Mutant(no_replay_window, "liar-lite", ("accepted",)),
    "no-signature": Mutant(no_signature, "liar-lite", ("accepted",)),
    "no-epoch-fence": Mutant(no_epoch_fence, "liar-lite", ("epoch-fence",)),
    "kv-budget-kept": Mutant(kv_budget_kept, "calm", ("invariants",)),
    "kv-kept": Mutant(kv_kept, "calm", ("balances",)),
    "tokens-unordered": Mutant(tokens_unordered, "liar-lite", ("tokens", "invariants")),
    "quorum-minus-one": Mutant(quorum_minus_one, "ballots", ("unproven", "certificates")),
    "no-fsync": Mutant(no_fsync, "ballots", ("votes", "decides"), seed=40),
    "no-certificate-gossip": Mutant(no_certificate_gossip, "ballots", ("decides",)),
}


def main(name: str, first: int, count: int) -> str:
    """Which oracle noticed the mutant ``name``, and in which seed of ``count`` from ``first`` on."""
    mutant = MUTANTS[name]
    mutant.breaks()
    for seed in range(first, first + count):
        for violation in play(mutant.scenario, seed, mutant.nodes).violations:
            return f"{violation.oracle} {seed}"
    return "unnoticed"


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
