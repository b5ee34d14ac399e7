"""SPEC.md says what the code does: its tables are the code's own."""

import importlib.util
import re
import sys
from types import ModuleType

import pytest

from shoal_protocol import errors, limits
from shoal_protocol.codec import HEADERS, MESSAGES
from shoal_protocol.messages import DeploymentPhase
from tests.support.house import ROOT

PAGE = (ROOT / "protocol" / "SPEC.md").read_text(encoding="utf-8")


def script(folder: str, name: str) -> ModuleType:
    """A script that is no part of a package, loaded from its file."""
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """The script beside the page."""
    return script("protocol", "spec_tables")


@pytest.fixture(scope="module")
def diagrams() -> ModuleType:
    """The script beside the agent."""
    return script("agent", "spec_diagrams")


def test_the_diagrams_are_those_of_the_code(diagrams):
    assert diagrams.filled(PAGE) == PAGE, "run: python agent/spec_diagrams.py"


def test_a_drifted_diagram_is_noticed(diagrams, monkeypatch):
    monkeypatch.setitem(diagrams.tenure.TRANSITIONS, DeploymentPhase.DRAINED, (DeploymentPhase.LOADING,))
    assert diagrams.filled(PAGE) != PAGE


def test_the_tables_are_those_of_the_code(tables):
    assert tables.filled(PAGE) == PAGE, "run: python protocol/spec_tables.py"


def test_a_drifted_table_is_noticed(tables):
    drifted = PAGE.replace("| `nonce` |", "| `number` |")
    assert drifted != PAGE
    assert tables.filled(drifted) != drifted


def test_every_kind_has_its_table():
    for classes in (MESSAGES, HEADERS):
        for kind, cls in enumerate(classes, 1):
            assert f"**{kind} {cls.__name__}**" in PAGE


def test_every_limit_the_page_speaks_of_exists():
    named = set(re.findall(r"`([A-Z][A-Z_]+_(?:MAX|BITS|TOKENS))`", PAGE))
    assert len(named) > 10
    assert all(hasattr(limits, name) for name in named)


def test_every_reason_for_refusing_an_envelope_is_named():
    for kind in errors.RemoteProtocolError.__subclasses__():
        assert re.search(rf"\| .*\b{kind.reason}\b.* \|$", PAGE, re.MULTILINE), kind.reason
