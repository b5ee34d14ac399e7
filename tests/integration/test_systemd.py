"""The unit files are what systemd accepts and scores as closed, checked by systemd's own tools, offline."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.house import ROOT

UNITS: Final = ROOT / "systemd"
ANALYZE_S_MAX: Final = 60
EXPOSURE_TENTHS_MAX: Final = 15
"""`systemd-analyze security --threshold`: 1.5 of 10. A plain User= service scores 9.5."""

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], timeout=ANALYZE_S_MAX, capture_output=True, text=True, check=False
    )


@pytest.fixture
def units(tmp_path) -> Path:
    """The unit files beside each other, the installed program and README replaced by ones that exist here."""
    program = tmp_path / "shoal"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path in (*UNITS.glob("*.service"), *UNITS.glob("*.slice")):
        (tmp_path / path.name).write_text(path.read_text().replace("/opt/shoal/bin/shoal", str(program)))
    return tmp_path


@pytest.fixture
def service() -> dict[str, list[str]]:
    """The settings of [Service], repeated ones as lists."""
    text = (UNITS / "shoal-agent.service").read_text().split("[Service]")[1].split("[Install]")[0]
    settings: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", text, flags=re.MULTILINE):
        settings.setdefault(name, []).append(value)
    return settings


def test_systemd_accepts_every_unit(units):
    ran = analyze("verify", "--man=no", "--recursive-errors=no", *sorted(units.glob("shoal*.*")))
    assert ran.returncode == 0, ran.stderr
    assert "shoal" not in ran.stderr, ran.stderr


def test_systemd_would_refuse_a_misspelt_setting(units):
    """Verification looks at this file: a wrong line is named."""
    path = units / "shoal-agent.service"
    path.write_text(path.read_text().replace("WatchdogSec=30", "WatchdogSec=soon"))
    assert "Failed to parse" in analyze("verify", "--man=no", path).stderr


def test_the_exposure_stays_low(units):
    unit = units / "shoal-agent.service"
    ran = analyze("security", "--offline=yes", f"--threshold={EXPOSURE_TENTHS_MAX}", unit)
    assert ran.returncode == 0, ran.stdout


def test_the_service_is_supervised(service):
    assert service["Type"] == ["notify"]
    assert service["WatchdogSec"] == ["30"]
    assert service["Restart"] == ["always"]
    assert service["StateDirectory"] == ["shoal"]
    assert "ExecReload" not in service, "the agent does not reload its configuration"


def test_every_secret_comes_as_a_credential(service):
    """No key is readable by the user the agent runs as; each is handed over by the service manager."""
    names = {line.split(":")[0] for line in service["LoadCredential"]}
    assert {"node.key", "data.key"} <= names
    assert all(line.split(":")[1].startswith("/etc/shoal/keys/") for line in service["LoadCredential"])


def test_the_slice_of_the_service_is_shipped(service):
    (name,) = service["Slice"]
    assert (UNITS / name).is_file()
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read(UNITS / name)
    assert parser["Slice"]["MemoryMax"]


def test_sysusers_and_tmpfiles_agree_with_the_unit(service):
    (user,) = service["User"]
    assert re.search(rf"^u {user} ", (UNITS / "shoal.sysusers").read_text(), flags=re.MULTILINE)
    directories = re.findall(r"^d (\S+)", (UNITS / "shoal.tmpfiles").read_text(), flags=re.MULTILINE)
    assert f"/var/lib/{service['StateDirectory'][0]}" in directories
    assert {Path(line.split(":")[1]).parent.as_posix() for line in service["LoadCredential"]} <= set(directories)
