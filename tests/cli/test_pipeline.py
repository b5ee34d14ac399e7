"""`shoal pipeline check`."""

from pathlib import Path

from shoal_agent.errors import ExitCode
from tests.support.commands import shoal

EXAMPLES = Path(__file__).parents[2] / "deploy" / "pipelines"


def test_a_person_reads_what_it_does_and_what_at_once():
    ended = shoal("pipeline", "check", EXAMPLES / "compare.toml")
    assert ended.code == 0, ended.err
    first, *waves = ended.out.splitlines()
    assert first == "compare takes a JSON object of left, right, gives map (both)"
    assert [line[0] for line in waves] == ["1", "2", "3"]
    assert "left-tokens: tokenizer.encode of request.left; right-tokens: " in waves[0]


def test_a_script_reads_the_same():
    ended = shoal("pipeline", "check", EXAMPLES / "answer.toml", "--json")
    assert ended.code == 0, ended.err
    assert (ended.json["name"], ended.json["class"], ended.json["takes"]) == ("answer", "chat", None)
    assert ended.json["waves"] == [["answer"], ["tokens"], ["vector"], ["indexed"]]
    assert [step["service"] for step in ended.json["steps"]] == ["generate", "tokenizer", "embedder", "join"]


def test_all_its_faults_are_told_with_their_places(tmp_path):
    file = tmp_path / "compare.toml"
    text = (EXAMPLES / "compare.toml").read_text()
    file.write_text(text.replace('"left-tokens"', '"left"').replace('service = "join"', 'service = "joint"'))
    ended = shoal("pipeline", "check", file, "--json")
    assert ended.code == ended.json["error"]["exit_code"] == ExitCode.CONFIG
    told = ended.json["error"]["message"]
    assert told.startswith(f"{file} has ")
    for fault in (
        "steps[2].name: 'left' is the name of steps[0]",
        "steps[4].method: required",
        "steps[4].inputs: 2 inputs",
    ):
        assert fault in told


def test_a_file_that_is_not_there_is_told(tmp_path):
    ended = shoal("pipeline", "check", tmp_path / "absent.toml")
    assert ended.code == ExitCode.CONFIG
    assert "No such file" in ended.err
