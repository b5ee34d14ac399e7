"""Files of pipelines: the examples, and everything that can be wrong with one, by its place."""

from pathlib import Path

import pytest

from shoal_agent.core.pipeline import GENERATE, Generation, Sort
from shoal_agent.errors import ConfigError, ExitCode
from shoal_agent.shell.pipeline_manifest import PIPELINES_MAX, load_pipeline, load_pipelines

DEPLOY = Path(__file__).parents[2] / "deploy"
ASK = """
name = "ask"
class = "chat"
output = "back"
[[steps]]
name = "answer"
service = "generate"
model = "tiny"
inputs = ["request"]
tokens_max = 8
[[steps]]
name = "back"
service = "turn"
method = "around"
inputs = ["answer"]
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="ask.toml"):
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


def faults(file, classes=None):
    with pytest.raises(ConfigError) as caught:
        load_pipeline(file, classes)
    assert caught.value.exit_code is ExitCode.CONFIG
    first, *lines = caught.value.message.splitlines()
    assert first.startswith(f"{file} has {len(lines)} fault")
    return [line.strip() for line in lines]


def test_a_file_is_a_pipeline(write):
    pipeline = load_pipeline(write(ASK), ("chat",))
    assert (pipeline.name, pipeline.kind, pipeline.output, pipeline.parts) == ("ask", "chat", "back", ())
    answer, back = pipeline.steps
    assert (answer.service, answer.model, answer.generation) == (GENERATE, "tiny", Generation(tokens_max=8))
    assert (back.call, back.model, back.generation) == ("turn.around", None, None)


def test_the_examples_are_pipelines():
    answer, compare = load_pipelines(DEPLOY / "pipelines", ("chat",))
    assert (answer.name, answer.kind, answer.sort_of(answer.output)) == ("answer", "chat", Sort.MAP)
    assert (compare.name, compare.parts) == ("compare", ("left", "right"))
    assert answer.step("answer").generation == Generation(64, 0.0, chat=True, system="Answer in one sentence.")


def test_what_is_wrong_in_its_form_is_told_at_once(write):
    text = ASK.replace('output = "back"', "").replace(
        "tokens_max = 8", "tokens_max = 5000\ntemperature = nan\ncolour = 1"
    )
    text = text.replace('model = "tiny"', 'model = "Tiny!"').replace('inputs = ["answer"]', "")
    told = faults(write(text))
    assert [line.partition(": ")[0] for line in told] == [
        "output",
        "steps[0].model",
        "steps[0].tokens_max",
        "steps[0].temperature",
        "steps[0].colour",
        "steps[1].inputs",
    ]
    assert (told[0], told[4]) == ("output: required", "steps[0].colour: there is no such setting")


def test_what_is_wrong_with_its_graph_is_told_at_once(write):
    text = ASK.replace('output = "back"', 'output = "nobody"').replace('["answer"]', '["anwser"]')
    assert faults(write(text), ("search",)) == [
        "output: there is no step 'nobody'",
        "steps[1].inputs[0]: there is no step 'anwser', nor is it 'request' or request.NAME",
        "class: there is no request class 'chat' in the agent's configuration; known: search",
    ]
    text = ASK.replace('method = "around"', 'method = "around"\nchat = false')
    assert faults(write(text)) == ["steps[1]: only generate has tokens_max, temperature, chat and system"]


def test_what_is_no_toml_or_no_file_is_told(write, tmp_path):
    assert faults(write("name = ["))[0].startswith("not TOML")
    with pytest.raises(ConfigError, match="No such file"):
        load_pipeline(tmp_path / "absent.toml")


def test_a_folder_is_read_in_the_order_of_names_and_all_its_faults_are_told(write, tmp_path):
    write(ASK.replace('"ask"', '"later"'), "b.toml")
    write(ASK, "a.toml")
    write("nothing", "README")
    assert [each.name for each in load_pipelines(tmp_path, ("chat",))] == ["ask", "later"]
    write(ASK, "c.toml")
    write(ASK.replace('output = "back"', ""), "d.toml")
    with pytest.raises(ConfigError) as caught:
        load_pipelines(tmp_path, ("chat",))
    assert "another file of this folder has a pipeline 'ask'" in caught.value.message
    assert "d.toml has 1 fault:\n  output: required" in caught.value.message


def test_no_folder_is_no_pipeline_and_an_absent_one_is_a_fault(write, tmp_path):
    assert load_pipelines(None, ()) == ()
    with pytest.raises(ConfigError, match=r"pipelines\.folder: .*absent is not there"):
        load_pipelines(tmp_path / "absent", ())
    for number in range(PIPELINES_MAX + 1):
        write(ASK, f"{number}.toml")
    with pytest.raises(ConfigError, match="at most 32"):
        load_pipelines(tmp_path, ("chat",))
