import json
import subprocess
import sys


def test_the_package_runs_as_the_command_does():
    command = [sys.executable, "-m", "shoal_agent", "version", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert set(json.loads(ended.stdout)) >= {"shoal", "protocol", "python"}
