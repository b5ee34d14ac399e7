import errno
import re

import pytest

from shoal_agent.cli import run as run_module
from shoal_agent.errors import ExitCode
from tests.support.commands import shoal

AGENT = """
[node]
state_dir = "state"
key_file = "node.key"
[cluster]
roster_file = "roster.bin"
root_keys = ["{key}"]
[[brokers]]
url = "mqtt://127.0.0.1:1"
[data]
host = "127.0.0.1"
certificate_file = "data.crt"
key_file = "data.key"
[api]
enabled = false
[models]
store_dir = "models"
"""


@pytest.fixture
def config(tmp_path):
    for name in ("node.key", "roster.bin", "data.crt", "data.key"):
        (tmp_path / name).touch(mode=0o600)
    file = tmp_path / "agent.toml"
    file.write_text(AGENT.format(key="a" * 64))
    return file


def test_faults_of_the_configuration_come_together(config):
    config.write_text(config.read_text().replace("enabled = false", "port = 99999"))
    (config.parent / "node.key").chmod(0o644)
    ended = shoal("run", "--config", config)
    assert ended.code == ExitCode.CONFIG
    assert f"{config} has 3 faults:" in ended.err
    assert re.search(r"node\.key_file: .* mode 0644", ended.err)
    assert "api.port: " in ended.err
    assert "api.key_hashes: " in ended.err


def test_flags_win_over_the_file(config, monkeypatch):
    given = []

    async def run_agent(settings):
        given.append(settings)

    monkeypatch.setattr(run_module, "run_agent", run_agent)
    assert shoal("run", "--config", config, "--log-level", "debug", "--log-format", "console").code == 0
    assert (given[0].log.level, given[0].log.format) == ("debug", "console")
    assert shoal("run", "--config", config, "--log-level", "loud").code == ExitCode.CONFIG


def test_a_full_disk_is_explained(config, monkeypatch):
    async def run_agent(settings):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(run_module, "run_agent", run_agent)
    ended = shoal("run", "--config", config)
    assert ended.code == ExitCode.UNAVAILABLE
    assert "the disk is full" in ended.err
    assert "  try: free space" in ended.err


def test_a_bug_keeps_its_traceback(config, monkeypatch):
    async def run_agent(settings):
        raise OSError(errno.EBADF, "ours")

    monkeypatch.setattr(run_module, "run_agent", run_agent)
    with pytest.raises(OSError, match="ours"):
        shoal("run", "--config", config)
