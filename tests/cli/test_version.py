import platform
import subprocess
import sys

from shoal_agent.cli.version import PROTOCOL
from tests.support.commands import shoal


def test_versions_for_scripts():
    ended = shoal("version", "--json")
    assert ended.code == 0
    assert set(ended.json) == {"shoal", "protocol", "onnxruntime", "python"}
    assert ended.json["python"] == platform.python_version()
    assert ended.json["protocol"] == PROTOCOL


def test_versions_for_people():
    lines = shoal("version").out.splitlines()
    assert [line.split()[0] for line in lines] == ["shoal", "protocol", "onnxruntime", "python"]
    assert all(len(line.split()) == 2 for line in lines)


def test_it_answers_without_loading_what_run_needs():
    code = "import sys; from shoal_agent.cli.main import main\ntry: main(['version'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'onnxruntime', 'aiomqtt', 'psutil', 'httpx', 'structlog'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
