"""What one run came to."""

from dataclasses import dataclass

from shoal_agent.sim.oracles import UNDECIDED, Violation


@dataclass(frozen=True, slots=True)
class Outcome:
    """A scenario, a seed, a number of nodes, and what came of it."""

    scenario: str
    seed: int
    nodes: int
    violations: tuple[Violation, ...]
    trace: str
    """Its hash; empty where nobody asked for one."""
    seconds: float
    """Virtual time over which messages were counted."""
    messages: int
    """Envelopes and frames delivered."""
    message_bytes: int
    requests: int
    agreements: tuple[float, ...] = ()
    """Seconds from each trigger to the certificate that answered it."""

    @property
    def undecided(self) -> bool:
        """Whether the cluster had no agreed and active plan when its time was up."""
        return any(violation.oracle == UNDECIDED for violation in self.violations)

    @property
    def broken(self) -> int:
        """Violations, being undecided aside."""
        return sum(violation.oracle != UNDECIDED for violation in self.violations)

    @property
    def replay(self) -> str:
        """The command line that runs this again."""
        return f"shoal sim --scenario {self.scenario} --seeds {self.seed}..{self.seed} --nodes {self.nodes}"
