"""Sizes and habits: what makes the next reader slow is refused here, so that no review has to say it."""

import ast
import re
from typing import Final

import pytest

from tests.support.house import PACKAGES, Source, everything, product, sources

FILE_LINES_MAX: Final = 400
"""Beyond this a file holds two concepts."""
FUNCTION_LINES_MAX: Final = 70
"""One screen; aim for 50."""
CORE_BASES: Final = frozenset({"Protocol", "Enum", "IntEnum", "StrEnum", "IntFlag", "Exception", "NamedTuple"})
"""What the core may inherit from: shapes, tables and errors. Behaviour is composed."""

MARKERS: Final = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
BLANKET_NOQA: Final = re.compile(r"#\s*(ruff:\s*)?noqa(?!:\s*[A-Z]+[0-9]+)", re.IGNORECASE)
BLANKET_IGNORE: Final = re.compile(r"#\s*type:\s*ignore(?!\[)")


def functions(source: Source) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("source", everything(), ids=lambda source: source.name)
def test_a_file_is_one_concept(source):
    count = len(source.text.splitlines())
    assert count <= FILE_LINES_MAX, f"{source.name}: {count} lines"


def test_a_function_fits_a_screen():
    faults = [
        f"{source.at(node)} {node.name}: {lines(node)} lines"
        for source in everything()
        for node in functions(source)
        if lines(node) > FUNCTION_LINES_MAX
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("pattern", [MARKERS, BLANKET_NOQA, BLANKET_IGNORE], ids=["marker", "noqa", "type: ignore"])
def test_nothing_is_left_for_later_or_silenced_wholesale(pattern):
    faults = [
        f"{source.name}:{number}: {line.strip()}"
        for source in everything()
        for number, line in enumerate(source.text.splitlines(), 1)
        if pattern.search(line) and "re.compile" not in line
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("line", ["x = 1  # TO" + "DO later", "# FIX" + "ME"])
def test_the_marker_scan_sees_one(line):
    assert MARKERS.search(line)


@pytest.mark.parametrize(("line", "blanket"), [("# no" + "qa", True), ("# no" + "qa: S603  (ours)", False)])
def test_the_noqa_scan_tells_blanket_from_targeted(line, blanket):
    assert bool(BLANKET_NOQA.search(line)) is blanket


def test_only_a_command_prints():
    faults = [
        source.at(node)
        for source in product()
        if not source.path.is_relative_to(PACKAGES["shoal_agent"] / "cli")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not faults, "\n".join(faults)


def test_no_bare_except_and_none_that_swallows_everything():
    faults = []
    for source in everything():
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            if node.type is None:
                faults.append(f"{source.name}:{node.lineno} bare except")
            elif (
                len(node.body) == 1 and isinstance(node.body[0], ast.Pass) and "BaseException" in ast.unparse(node.type)
            ):
                faults.append(f"{source.name}:{node.lineno} swallows BaseException")
    assert not faults, "\n".join(faults)


def test_the_core_inherits_shapes_only():
    faults = [
        f"{source.name}:{node.lineno} class {node.name}({ast.unparse(base)})"
        for source in sources(PACKAGES["shoal_agent"] / "core")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if ast.unparse(base).split("[")[0].split(".")[-1] not in CORE_BASES and not ast.unparse(base).endswith("Error")
    ]
    assert not faults, "\n".join(faults)


def test_no_module_level_mutable_state():
    """A global that is rebound is state nobody owns."""
    faults = [source.at(node) for source in product() for node in ast.walk(source.tree) if isinstance(node, ast.Global)]
    assert not faults, "\n".join(faults)


def test_every_module_says_what_it_is_for():
    faults = [
        source.name
        for source in product()
        if source.path.name != "__init__.py" and ast.get_docstring(source.tree) is None
    ]
    assert not faults, "\n".join(faults)
