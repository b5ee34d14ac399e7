"""What is shipped: the three packages and the catalog in the wheel, the sources in the sdist, nothing else."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Final

import pytest

from tests.support.house import PACKAGES, ROOT

BUILD_S_MAX: Final = 120
VERSION: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
NEVER_SHIPPED: Final = (".venv", "__pycache__", ".git/", ".mypy_cache", ".ruff_cache", "bench-results", ".hypothesis")


def build(target: str, folder: Path) -> Path:
    """Build ``target`` with the installed hatchling: no network, no isolation."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(folder)],
        cwd=ROOT,
        timeout=BUILD_S_MAX,
        check=True,
        capture_output=True,
    )
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    with zipfile.ZipFile(build("wheel", tmp_path_factory.mktemp("wheel"))) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> list[str]:
    with tarfile.open(build("sdist", tmp_path_factory.mktemp("sdist"))) as archive:
        return [name.removeprefix(f"shoal-{VERSION}/") for name in archive.getnames()]


def test_the_wheel_holds_the_three_packages_only(wheel):
    tops = {name.split("/")[0] for name in wheel}
    assert tops == {*PACKAGES, f"shoal-{VERSION}.dist-info"}


def test_the_wheel_holds_every_module_its_types_and_the_catalog(wheel):
    modules = {path.relative_to(p.parent).as_posix() for p in PACKAGES.values() for path in p.rglob("*.py")}
    catalog = {f"shoal_models/catalog/{path.name}" for path in (ROOT / "models" / "catalog").glob("*.toml")}
    typed = {f"{name}/py.typed" for name in PACKAGES}
    assert "shoal_models/catalog/smollm2-135m-instruct.toml" in catalog
    assert modules | catalog | typed <= set(wheel)


def test_the_sdist_holds_what_a_builder_needs(sdist):
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt"} <= set(sdist)
    for room in ("agent", "protocol", "models", "tests", "deploy", "systemd", "docs"):
        assert any(name.startswith(f"{room}/") for name in sdist), room


def test_nothing_made_by_machines_is_shipped(wheel, sdist):
    faults = [name for name in (*wheel, *sdist) if any(part in f"{name}/" for part in NEVER_SHIPPED)]
    assert not faults


def test_every_dependency_is_pinned_once_and_by_name():
    """The lock installs anywhere: exact versions, no path, no address, no editable line."""
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    assert lines.pop() == ""
    names = [line.split("==")[0].lower().replace("_", "-") for line in lines]
    assert len(set(names)) == len(names)
    assert all(line.count("==") == 1 and not set("/@: ") & set(line) for line in lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    for requirement in wanted:
        name = requirement.split(">")[0].split("[")[0].lower().replace("_", "-")
        assert name == "shoal" or name in names, f"{name} is not in constraints.txt: make lock"
