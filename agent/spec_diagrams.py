"""The state machines of SPEC.md, drawn from the agent's tables: ``python agent/spec_diagrams.py`` writes them in place.

``protocol/spec_tables.py`` does the same for what belongs to the protocol alone. This one stands here because the
protocol must not know the agent; a test compares both with the page.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Final

from shoal_agent.core import motions, patience, tenure
from shoal_protocol.messages import DeploymentPhase

SPEC: Final = Path(__file__).parents[1] / "protocol" / "SPEC.md"


def _diagram(transitions: Mapping[Enum, Iterable[Enum]], first: Enum, begins: str) -> Iterator[str]:
    """A Mermaid diagram; where the table gives reasons, they stand at the arrows."""
    yield from ("```mermaid", "stateDiagram-v2", f"    [*] --> {first.name}: {begins}")
    for state, following in transitions.items():
        for after in following:
            reason = f": {following[after]}" if isinstance(following, Mapping) else ""
            yield f"    {state.name} --> {after.name}{reason}"
        if not list(following):
            yield f"    {state.name} --> [*]"
    yield from ("```", "")


def _waits() -> Iterator[str]:
    yield from ("| a voter waits | seconds |", "|---|--:|")
    growth = f"at most {patience.GROWTH_ROUNDS_MAX} times"
    yield f"| for a proposal | {patience.PROPOSE_S}, and {patience.PROPOSE_GROWTH_S} more each round, {growth} |"
    yield f"| for missing votes | {patience.VOTE_S}, and {patience.VOTE_GROWTH_S} more each round, {growth} |"
    yield f"| when all have had their turn and were refused | {patience.VOTE_S}, doubled up to {patience.PAUSE_S_MAX} |"
    yield ""


def sections() -> dict[str, str]:
    """The text of every generated section, by its name in the page."""
    steps = _diagram(motions.TRANSITIONS, motions.Step.PROPOSE, "a round begins")
    phases = _diagram(tenure.TRANSITIONS, DeploymentPhase.LOADING, "a plan names the host")
    return {"rounds": "\n".join((*steps, *_waits())), "phases": "\n".join(phases)}


def filled(page: str) -> str:
    """``page`` with every section as the code has it now; an assertion if a section has no place or several."""
    for name, text in sections().items():
        pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->\n)"
        page, count = re.subn(pattern, lambda m, text=text: f"{m[1]}\n{text}\n{m[2]}", page, flags=re.DOTALL)
        assert count == 1, f"SPEC.md has {count} places for {name}"
    return page


if __name__ == "__main__":
    SPEC.write_text(filled(SPEC.read_text(encoding="utf-8")), encoding="utf-8")
