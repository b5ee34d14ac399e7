"""The rooms import each other in one direction only; the contracts stand in pyproject.toml."""

import subprocess
import sys
import tomllib
from pathlib import Path

from tests.support.house import PACKAGES, ROOT

LINT_S_MAX = 120
"""A graph of a few hundred modules takes a second; a machine under load ten."""


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the linter in a process of its own: it edits sys.path and the logging configuration."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo"],
        cwd=folder,
        timeout=LINT_S_MAX,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_contract_is_kept():
    ran = lint_imports(ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_contracts_cover_every_package_and_room():
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contracts = {contract["id"]: contract for contract in configuration["contracts"]}
    assert configuration["root_packages"] == sorted(PACKAGES)
    assert contracts["packages"]["layers"] == ["shoal_agent", "shoal_models", "shoal_protocol"]
    assert contracts["rooms"]["exhaustive"] is True
    assert contracts["purity"]["source_modules"] == ["shoal_agent.core", "shoal_protocol"]


def test_an_impure_core_breaks_a_contract(tmp_path):
    """The linter looks at what it should: a copy of the packages with one bad import in the core is refused."""
    for package in PACKAGES.values():
        for path in package.rglob("*.py"):
            copy = tmp_path / path.relative_to(package.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (tmp_path / "shoal_agent" / "core" / "events.py").write_text('"""Impure."""\n\nimport time\n')
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    ran = lint_imports(tmp_path)
    assert ran.returncode == 1
    assert "shoal_agent.core.events -> time" in ran.stdout
