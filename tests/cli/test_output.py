import json

from shoal_agent.cli.output import print_error, print_json, progress
from shoal_agent.errors import DeniedError


def test_json_is_one_line_and_keeps_its_letters(capsys):
    print_json({"text": "grün", "lines": "a\nb"})
    out = capsys.readouterr().out
    assert out == '{"text":"grün","lines":"a\\nb"}\n'


def test_progress_stays_out_of_the_result(capsys):
    progress("loading")
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "loading\n")


def test_an_error_is_for_people_and_on_request_for_scripts(capsys):
    fault = DeniedError("no", "another key")
    print_error(fault, as_json=False)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "error: no\n  try: another key\n")
    print_error(fault, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"error": {"message": "no", "hint": "another key", "exit_code": 5}}
