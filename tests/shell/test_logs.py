import io
import json
import logging
import re

import pytest

from shoal_agent.config import LogSection
from shoal_agent.core.effects import Note
from shoal_agent.shell.logs import PRIVATE_FIELDS, REDACTED, VALUE_CHARS_MAX, Log

NODE = "abcdefgh" + "z" * 24


@pytest.fixture
def stream():
    return io.StringIO()


@pytest.fixture
def root_logger():
    root = logging.getLogger()
    before = root.handlers, root.level
    yield root
    root.handlers, root.level = before


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_the_short_node_id(stream):
    Log(LogSection(), NODE, stream).note(Note("info", "plan accepted", (("epoch", 3), ("took_s", 0.5))))
    (line,) = lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {"event": "plan accepted", "level": "info", "node": "abcdefgh", "epoch": 3, "took_s": 0.5}


@pytest.mark.parametrize(("level", "seen"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_filters(stream, level, seen):
    log = Log(LogSection(level=level), NODE, stream)
    for each in ("debug", "info", "warning", "error"):
        log.say(each, "x")
    assert len(lines(stream)) == seen


def test_the_console_form_is_for_reading(stream):
    Log(LogSection(format="console"), NODE, stream).say("warning", "broker lost", {"broker": "a"})
    text = stream.getvalue()
    assert "broker lost" in text
    assert "broker=a" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("name", sorted(PRIVATE_FIELDS))
def test_private_fields_are_taken_out_by_name(stream, name):
    Log(LogSection(), NODE, stream).say("info", "x", {name: "the heart of it"})
    assert lines(stream)[0][name] == REDACTED


@pytest.mark.parametrize(
    "secret",
    [
        "Bearer abc.def-123",
        "bearer\tabc",
        "shoal-0123456789abcdefGHIJ_-0123456789",
        "-----BEGIN PRIVATE KEY-----\nMIG\n-----END PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----\nMIG",
    ],
)
def test_credentials_are_taken_out_of_any_text(stream, secret):
    log = Log(LogSection(), NODE, stream)
    log.say("error", f"refused {secret}", {"detail": f"sent {secret}", "peers": [secret], "cause": ValueError(secret)})
    (line,) = lines(stream)
    assert line["event"] == f"refused {REDACTED}"
    assert "MIG" not in stream.getvalue()
    for part in secret.split():
        assert len(part) < 8 or part.startswith("-----") or part not in stream.getvalue()


def test_numbers_and_harmless_text_stay(stream):
    fields = {"tokens": 12, "ready": True, "blocks": "0-3", "bearer": "none", "missing": None}
    Log(LogSection(), NODE, stream).say("info", "x", fields)
    assert fields.items() <= lines(stream)[0].items()


def test_long_values_are_cut(stream):
    Log(LogSection(), NODE, stream).say("info", "x" * 10_000)
    event = lines(stream)[0]["event"]
    assert event.endswith("(10000 characters)")
    assert len(event) < VALUE_CHARS_MAX + 30


def test_a_field_cannot_take_the_place_of_the_log_s_own(stream):
    Log(LogSection(), NODE, stream).say("info", "x", {"event": "forged", "node": "forged", "level": "forged"})
    (line,) = lines(stream)
    assert (line["event"], line["node"], line["level"]) == ("x", "abcdefgh", "info")
    assert line["event_"] == line["node_"] == line["level_"] == "forged"


def test_a_line_break_cannot_forge_a_line(stream):
    Log(LogSection(), NODE, stream).say("info", 'x\n{"event": "forged"}')
    assert len(stream.getvalue().splitlines()) == 1


def test_what_libraries_say_comes_here(stream, root_logger):
    Log(LogSection(), NODE, stream).adopt_libraries()
    logging.getLogger("uvicorn.error").warning("port %d, Bearer abc", 8600)
    logging.getLogger("asyncio").info("too quiet")
    logging.getLogger("asyncio").error("a task failed", exc_info=RuntimeError("broke"))
    first, second = lines(stream)
    assert (first["library"], first["level"]) == ("uvicorn.error", "warning")
    assert first["event"] == f"port 8600, {REDACTED}"
    assert (second["library"], second["level"]) == ("asyncio", "error")
    assert "RuntimeError: broke" in second["traceback"]


def test_without_an_id_yet(stream):
    Log(LogSection(), stream=stream).say("info", "starting")
    assert "node" not in lines(stream)[0]
