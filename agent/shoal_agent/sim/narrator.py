"""Tells what happened in a world as a person would: who decided what, when, and why.

Every node keeps a story of its own decisions. The narrator listens to all of them as they are told, adds what struck
the world from outside, and gives nodes names that can be read: the same fifty names in every world, in the order of the
nodes. Digests are cut to what tells them apart, and what several nodes say within a second is told once. That nodes
find each other when they begin is no news.

    12.3 s  * bert is killed
    12.7 s  anna, cora and dora: bert: suspect -> dead (killed): silent 0.38 s, ...
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from shoal_agent.sim.machine import Seen
from shoal_protocol.ids import Incarnation, NodeId

NAMES: Final = (
    "anna", "bert", "cora", "dora", "emil", "fred", "gina", "hugo", "ines", "jana",
    "karl", "lena", "mona", "nils", "olga", "paul", "rosa", "saul", "tina", "uwe",
)  # fmt: skip
"""For as many nodes as a story can have; later ones are called by number."""
DIGEST: Final = re.compile(r"\b([0-9a-f]{6})[0-9a-f]{10,}\b")

TOGETHER_S: Final = 1.0
"""Who says the same within this says it with the first."""
NO_NEWS: Final = "unknown -> alive"


def name_of(index: int) -> str:
    """What the ``index``-th node is called."""
    return NAMES[index] if index < len(NAMES) else f"node-{index}"


@dataclass(slots=True)
class _Line:
    """What was said at ``at_s``, and by whom; nobody: it came from outside."""

    at_s: float
    names: list[str]
    text: str

    def __str__(self) -> str:
        *others, last = self.names or ["*"]
        who = f"{', '.join(others)} and {last}" if others else last
        return f"{self.at_s:7.1f} s  {who}{': ' if self.names else ' '}{self.text}"


class Narrator:
    """Collects lines of prose; one of a world's witnesses."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._names: dict[NodeId, str] = {}
        self._told: dict[NodeId, tuple[Incarnation, int]] = {}
        self._pattern = re.compile(r"(?!)")

    def introduce(self, nodes: Iterable[NodeId]) -> None:
        """Who is who."""
        self._names = {node: name_of(index) for index, node in enumerate(nodes)}
        words = sorted({part for node in self._names for part in (node, node[:8])}, key=len, reverse=True)
        self._pattern = re.compile("|".join(words))

    @property
    def lines(self) -> list[str]:
        """The story so far."""
        return [str(line) for line in self._lines]

    def strike(self, at_s: float, text: str) -> None:
        """Something from outside: a fault, an operator."""
        self._lines.append(_Line(at_s, [], self._named(text)))

    def handled(self, seen: Seen) -> None:
        """A node took a step: what it told of it."""
        machine = seen.machine
        life, count = self._told.get(machine.name, (machine.life, 0))
        if life != machine.life:
            count = 0
        story = machine.node.story()
        fresh = story.told - count
        if fresh:
            for entry in story.entries()[-fresh:]:
                self._tell(seen.at_s, self._names[machine.name], self._named(f"{entry.subject}: {entry.text}"))
        self._told[machine.name] = machine.life, story.told

    def _tell(self, at_s: float, name: str, text: str) -> None:
        """Add ``name`` to those who just said the same, or begin a line."""
        if NO_NEWS in text:
            return
        for line in reversed(self._lines):
            if not line.names or at_s - line.at_s > TOGETHER_S:
                break
            if line.text == text and name not in line.names:
                line.names.append(name)
                return
        self._lines.append(_Line(at_s, [name], text))

    def _named(self, text: str) -> str:
        return DIGEST.sub(r"\1", self._pattern.sub(lambda match: self._called(match.group()), text))

    def _called(self, word: str) -> str:
        return next(name for node, name in self._names.items() if node.startswith(word))
