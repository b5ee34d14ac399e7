"""The documents keep step with the code: every command, path, link and bound they name is there."""

import ast
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main
from typer.core import TyperGroup

from shoal_agent.cli.main import COMMANDS, build_app
from tests.support.house import PACKAGES, ROOT, source

FOLDERS: Final = ("agent", "protocol", "models", "tests", "deploy", "systemd", "docs", ".ci")
TEXT: Final = frozenset({".md", ".py", ".toml", ".sh", ".acl", ".template", ".service", ".slice", ".txt", ".hex", ""})
GENERATED: Final = ("__pycache__", ".egg-info")
MACHINE_PATH: Final = re.compile(r"(?<![\w.])/(?:home|Users|roo[t]|wor[k]|tm[p]/brief)/\w")
LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE: Final = re.compile(r"```[a-z]*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
UNIT: Final = re.compile(r"_(BYTES|BITS|TOKENS|CHARS|ITEMS|FRAMES|NODES|MS|S)(_MAX|_MIN)?$|_(MAX|MIN)$|^EPOCH_LEAP$")
ADR_SECTIONS: Final = ("Status: ", "## Context", "## Decision", "## Consequences")


def files() -> list[Path]:
    """Every file of the project that people read, in a fixed order."""
    nested = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    found = [path for path in (*ROOT.iterdir(), *nested) if path.is_file() and path.suffix in TEXT]
    return sorted(path for path in found if not any(part in str(path) for part in GENERATED))


def documents() -> list[Path]:
    return [path for path in files() if path.suffix == ".md"]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code(path: Path) -> list[str]:
    """The lines of every code block and every inline piece of code in a document; a continued line is one line."""
    text = path.read_text(encoding="utf-8")
    pieces = [block or inline for block, inline in CODE.findall(text)]
    return [line.strip() for piece in pieces for line in piece.replace("\\\n", " ").splitlines() if line.strip()]


def command_lines(program: str) -> list[tuple[str, list[str]]]:
    """(document, arguments) of every call of ``program`` in a document, pipes and substitutions cut off."""
    calls = []
    for path in documents():
        for line in code(path):
            match = re.search(rf"(?:^|[\s/(]){program}((?:\s+\S+)*)", line)
            if match:
                # "#" begins a comment, and what follows an operator is another program.
                words = shlex.split(re.split(r"[|;)]|&&|>|\s#", match[1])[0].replace("...", ""), posix=True)
                # In `sudo -u shoal shoal ...` the first one is a user.
                words = words[1:] if words[:1] == [program] else words
                calls.append((name(path), words))
    return calls


def click_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that ``words`` name, and what is left of them. (typer carries a click of its own, without types.)"""
    command: Any = typer.main.get_command(build_app(words))
    while isinstance(command, TyperGroup) and words:
        if command.invoke_without_command and words[0].startswith("--"):
            break  # a group that is a command itself, called as such
        found = command.commands.get(words[0])
        assert found is not None, f"no such command: {words[0]}"
        command, words = found, words[1:]
    return command, words


def test_every_shoal_command_in_the_documents_is_real():
    calls = [(where, words) for where, words in command_lines("shoal") if words and re.fullmatch(r"[a-z-]+", words[0])]
    assert {words[0] for _, words in calls} >= {"demo", "run", "deploy", "status", "chat", "roster", "keygen", "model"}
    faults = []
    for where, words in calls:
        try:
            command, rest = click_command(words)
        except AssertionError as fault:
            faults.append(f"{where}: shoal {' '.join(words)}: {fault}")
            continue
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        options = {word.split("=")[0] for word in rest if word.startswith("--")}
        faults += [
            f"{where}: shoal {' '.join(words)}: no option {option}" for option in sorted(options - known - {"--help"})
        ]
    assert not faults, "\n".join(faults)


def test_the_readme_introduces_every_command():
    text = (ROOT / "README.md").read_text()
    missing = [command for command in COMMANDS if f"shoal {command}" not in text]
    assert not missing


def test_every_make_target_in_the_documents_is_real():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    calls = [(where, words[0]) for where, words in command_lines("make") if words]
    assert {target for _, target in calls} >= {"demo", "test", "check"}
    faults = [f"{where}: make {target}" for where, target in calls if target not in targets]
    assert not faults, "\n".join(faults)


def test_the_changelog_knows_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(version)}\]", text, flags=re.MULTILINE)
    assert re.search(r"^## \[Unreleased\]", text, flags=re.MULTILINE)


def test_every_bound_has_a_unit_and_a_reason():
    limits = source(PACKAGES["shoal_protocol"] / "limits.py")
    body = limits.tree.body
    bounds = [
        (node, after) for node, after in zip(body, [*body[1:], None], strict=True) if isinstance(node, ast.AnnAssign)
    ]
    assert len(bounds) > 20
    faults = []
    for node, after in bounds:
        bound = ast.unparse(node.target)
        if not UNIT.search(bound):
            faults.append(f"{bound}: no unit")
        documented = (
            isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
        )
        if not documented:
            faults.append(f"{bound}: no reason")
    assert not faults, "\n".join(faults)


def paths_named(path: Path) -> list[str]:
    """What looks like a path of the project among the inline code of a document."""
    inline = [piece for block, piece in CODE.findall(path.read_text(encoding="utf-8")) if not block]
    tops = {entry.name for entry in ROOT.iterdir()}
    return [piece for piece in inline if re.fullmatch(r"[\w.-]+(/[\w.-]*)*", piece) and piece.split("/")[0] in tops]


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_every_path_a_document_names_is_there(document):
    named = paths_named(ROOT / document)
    assert named
    missing = [piece for piece in named if not (ROOT / piece).exists()]
    assert not missing


def test_the_map_names_every_room_and_every_module_of_the_core():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rooms = {path.parent for package in PACKAGES.values() for path in package.rglob("*.py")}
    missing = [f"{name(room)}/" for room in sorted(rooms) if f"`{name(room)}/`" not in text]
    core = PACKAGES["shoal_agent"] / "core"
    missing += [
        path.name for path in sorted(core.glob("*.py")) if path.stem != "__init__" and f"`{path.stem}`" not in text
    ]
    assert not missing


def test_decisions_are_numbered_without_a_gap_and_complete():
    decisions = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [path.name[:4] for path in decisions] == [f"{number:04}" for number in range(1, len(decisions) + 1)]
    faults = []
    for path in decisions:
        text = path.read_text()
        positions = [text.find(section) for section in ADR_SECTIONS]
        if -1 in positions or positions != sorted(positions):
            faults.append(f"{path.name}: needs, in this order, {', '.join(ADR_SECTIONS)}")
        if not text.startswith(f"# {path.name[:4]}. "):
            faults.append(f"{path.name}: its title has another number")
    assert not faults, "\n".join(faults)


def test_every_relative_link_leads_somewhere():
    faults = []
    for path in documents():
        for target in LINK.findall(path.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target) or target.startswith("#"):
                continue
            if not (path.parent / target.split("#")[0]).exists():
                faults.append(f"{name(path)} -> {target}")
    assert not faults, "\n".join(faults)


def test_no_file_speaks_of_one_persons_machine():
    faults = [
        f"{name(path)}:{number}: {line.strip()[:100]}"
        for path in files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert not faults, "\n".join(faults)
