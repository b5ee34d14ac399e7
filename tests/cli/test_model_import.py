"""What a source means, what a package is called, and what a person sees meanwhile."""

import pytest

from shoal_agent.cli.model_import import import_source, is_file, name_of
from shoal_models.package import Store
from shoal_protocol.ids import parse_deployment_id


@pytest.mark.parametrize(
    ("source", "file"),
    [("smollm2-135m-instruct", False), ("x.gguf", True), ("./x", True), ("/a/b.gguf", True), ("x.gguf.d", False)],
)
def test_a_source_is_a_file_or_a_name(source, file):
    assert is_file(source) is file


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct.q4_1"),
        ("My Model (final).gguf", "my-model-final"),
        ("--.gguf", "model"),
        ("ä.gguf", "model"),
        ("x" * 100 + ".gguf", "x" * 64),
    ],
)
def test_a_name_is_made_of_a_file_name(file, name):
    assert name_of(f"/somewhere/{file}") == name
    parse_deployment_id(name)


@pytest.mark.parametrize(("quiet", "shown"), [(False, True), (True, False)])
def test_progress_goes_to_stderr_unless_quiet(tiny_gguf, tmp_path, capsys, quiet, shown):
    import_source(str(tiny_gguf), None, "int8", Store(tmp_path / "s"), tmp_path / "c", quiet=quiet)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("blocks converted" in captured.err) is shown
