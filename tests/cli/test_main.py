import importlib
import subprocess
import sys

import pytest
import typer

from shoal_agent.cli.main import COMMANDS, build_app
from shoal_agent.errors import ExitCode
from tests.support.commands import shoal


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says(name):
    command = COMMANDS[name]
    target = getattr(importlib.import_module(command.module), command.attribute)
    if isinstance(target, typer.Typer):
        return
    assert target.__doc__.splitlines()[0] == command.summary


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    ended = shoal(name, "--help")
    assert ended.code == 0, ended.err
    assert "Example" in ended.out or "Commands:" in ended.out


def test_help_lists_every_command_in_order():
    ended = shoal("--help")
    assert ended.code == 0
    listed = [line.split()[0] for line in ended.out.split("Commands:")[1].splitlines() if line.strip()]
    assert listed == list(COMMANDS)


def test_help_imports_no_command():
    code = "import sys; from shoal_agent.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted(m for m in sys.modules if m.startswith('shoal_')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    modules = ["shoal_agent", "shoal_agent.cli", "shoal_agent.cli.main", "shoal_agent.cli.output", "shoal_agent.errors"]
    assert done.stdout.splitlines()[-1] == str(modules)


def test_a_typo_is_met_with_the_command_meant():
    ended = shoal("stauts")
    assert ended.code == ExitCode.USAGE
    assert "Did you mean 'status'?" in ended.err


def test_no_command_shows_the_help():
    ended = shoal()
    assert ended.code == ExitCode.USAGE
    assert "shoal demo" in ended.out + ended.err


def test_a_user_error_ends_with_its_code_and_hint(tmp_path):
    ended = shoal("run", "--config", tmp_path / "absent.toml")
    assert ended.code == ExitCode.CONFIG
    assert ended.out == ""
    assert ended.err.startswith(f"error: {tmp_path}/absent.toml: No such file")
    assert "  try: " in ended.err


def test_with_json_an_error_is_the_one_object():
    ended = shoal("status", "--api", "http://127.0.0.1:1", "--json")
    assert ended.code == ExitCode.UNAVAILABLE
    assert ended.json["error"]["exit_code"] == ExitCode.UNAVAILABLE


def test_only_the_command_that_was_named_is_real():
    app = build_app(["version"])
    names = {command.name: command.callback.__module__ for command in app.registered_commands}
    assert names["version"] == "shoal_agent.cli.version"
    assert names["status"] == "shoal_agent.cli.main"


def test_python_dash_m_is_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "shoal_agent", "version"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("shoal ")
