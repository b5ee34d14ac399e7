"""Every module is covered by a test module of its own, found by its name."""

import ast
from pathlib import Path
from typing import Final

from tests.support.house import PACKAGES, ROOT, source

ROOMS: Final = {
    PACKAGES["shoal_protocol"]: "protocol",
    PACKAGES["shoal_models"]: "models",
    PACKAGES["shoal_agent"] / "core": "core",
    PACKAGES["shoal_agent"] / "shell": "shell",
    PACKAGES["shoal_agent"] / "sim": "sim",
    PACKAGES["shoal_agent"] / "experiments": "experiments",
    PACKAGES["shoal_agent"] / "cli": "cli",
    PACKAGES["shoal_agent"]: "agent",
}
"""Source folder -> folder of tests; the first that holds a file decides."""

DEFINITIONS: Final = {
    "agent/shoal_agent/core/events.py": "dataclasses only; every test of node.py builds them",
    "agent/shoal_agent/core/effects.py": "dataclasses only; every test of node.py matches them",
    "agent/shoal_agent/core/facts.py": "dataclasses only; built by the tests of every leaf",
    "agent/shoal_agent/core/motions.py": "dataclasses and tables only; test_agreement.py and SPEC.md go through them",
    "agent/shoal_agent/sim/weather.py": "one dataclass; test_faults.py, test_links.py and test_brokers.py change it",
    "agent/shoal_agent/shell/ports.py": "Protocols only; mypy checks who satisfies them",
    "models/shoal_models/ports.py": "Protocols only; mypy checks who satisfies them",
    "protocol/shoal_protocol/messages.py": "dataclasses only; every one is in test_codec.py and in the golden vectors",
    "protocol/shoal_protocol/headers.py": "dataclasses only; every one is in test_frames.py and in the golden vectors",
}
"""Modules without behaviour, each with where its definitions are exercised."""


def expected_test(path: Path) -> str:
    """Where the test module of ``path`` stands: sub-packages become part of the name."""
    home = next(folder for folder in ROOMS if path.is_relative_to(folder))
    parts = [part.strip("_") for part in path.relative_to(home).with_suffix("").parts]
    return f"tests/{ROOMS[home]}/test_{'_'.join(parts)}.py"


def modules() -> list[Path]:
    """Every module, but not packages that only re-export."""
    return sorted(
        path
        for package in PACKAGES.values()
        for path in package.rglob("*.py")
        if path.name != "__init__.py" and path.relative_to(ROOT).as_posix() not in DEFINITIONS
    )


def test_every_module_has_its_test_module():
    missing = [f"{path.relative_to(ROOT)} -> {expected_test(path)}" for path in modules()]
    missing = [line for line in missing if not (ROOT / line.split(" -> ")[1]).is_file()]
    assert not missing, "\n".join(missing)


def test_every_test_module_of_a_room_has_its_module():
    expected = {expected_test(path) for path in modules()} | {expected_test(ROOT / name) for name in DEFINITIONS}
    found = [path for room in ROOMS.values() for path in sorted((ROOT / "tests" / room).glob("test_*.py"))]
    orphans = [path.relative_to(ROOT).as_posix() for path in found]
    orphans = [name for name in orphans if name not in expected]
    assert not orphans, "\n".join(orphans)


def test_every_test_module_holds_a_test():
    empty = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        names = [getattr(node, "name", "") for node in ast.walk(source(path).tree)]
        if not any(name.startswith(("test_", "Test")) or name.endswith("StateMachine") for name in names):
            empty.append(path.relative_to(ROOT).as_posix())
    assert not empty, "\n".join(empty)


def test_the_exceptions_hold_definitions_only():
    """A module without a test module of its own has no function with a decision in it."""
    for name, reason in DEFINITIONS.items():
        assert reason
        assert (ROOT / name).is_file(), f"{name} is gone: take it off the list"
        branches = [
            node for node in ast.walk(source(ROOT / name).tree) if isinstance(node, ast.If | ast.For | ast.While)
        ]
        assert not branches, f"{name} has grown behaviour: give it a test module"


def test_a_package_file_only_reexports():
    for package in PACKAGES.values():
        for path in sorted(package.rglob("__init__.py")):
            for node in source(path).tree.body:
                assert isinstance(node, ast.Import | ast.ImportFrom | ast.Expr | ast.Assign), source(path).at(node)
