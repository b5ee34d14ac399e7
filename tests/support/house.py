"""What the house tests share: where the rooms are, and their parsed files."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = {
    "shoal_protocol": ROOT / "protocol" / "shoal_protocol",
    "shoal_models": ROOT / "models" / "shoal_models",
    "shoal_agent": ROOT / "agent" / "shoal_agent",
}
PURE: Final = (PACKAGES["shoal_protocol"], PACKAGES["shoal_agent"] / "core")


@dataclass(frozen=True)
class Source:
    """One Python file of the project: its path from the root, its text and its tree."""

    path: Path
    name: str
    text: str
    tree: ast.Module

    def at(self, node: ast.expr | ast.stmt) -> str:
        """``file:line``, as a fault is reported."""
        return f"{self.name}:{node.lineno}"


@cache
def source(path: Path) -> Source:
    """The file at ``path``, parsed once per run."""
    text = path.read_text(encoding="utf-8")
    return Source(path, path.relative_to(ROOT).as_posix(), text, ast.parse(text, filename=str(path)))


def sources(*folders: Path) -> list[Source]:
    """Every Python file below ``folders``, in a fixed order."""
    found = sorted(path for folder in folders for path in folder.rglob("*.py"))
    assert found, f"no Python file below {folders}: the test looks in the wrong place"
    return [source(path) for path in found]


def product() -> list[Source]:
    """Every file that is shipped."""
    return sources(*PACKAGES.values())


def everything() -> list[Source]:
    """Every file that is shipped, what stands beside the packages, and every test."""
    return sources(*(package.parent for package in PACKAGES.values()), ROOT / "tests")
