"""What a client saw is told apart rightly, and timed from the kill; the lines are those the real servers sent."""

import signal
import socket
import subprocess
import threading
from contextlib import contextmanager
from http.client import IncompleteRead

import pytest

from tests.bench import client
from tests.bench.client import Heard
from tests.bench.peers import kills
from tests.bench.peers.kills import Blow, Ending, llama_word, openai_word
from tests.bench.peers.llama import bench_samples
from tests.bench.peers.trials import last_words

UNDISTURBED = (11, 12, 13)


def ours(*tokens, finish=None):
    events = [f'{{"choices":[{{"text":"x","token_ids":[{token}],"finish_reason":null}}]}}' for token in tokens]
    if finish:
        events.append(f'{{"choices":[{{"text":"","token_ids":[],"finish_reason":"{finish}"}}]}}')
    return events


def theirs(*tokens, finish=None):
    events = [f'{{"index":0,"content":"x","tokens":[{token}],"stop":false}}' for token in tokens]
    if finish:
        events.append(f'{{"index":0,"content":"","tokens":[],"stop":true,"stop_type":"{finish}"}}')
    return events


def heard(events, fault=None):
    """One event each second, the end one second after the last."""
    lines = [(float(at), b"data: " + event.encode() + b"\n") for at, event in enumerate(events)]
    return Heard(200, -1.0, lines, float(len(events)), fault)


@pytest.mark.parametrize(("say", "dialect"), [(ours, openai_word), (theirs, llama_word)])
@pytest.mark.parametrize(
    ("tokens", "finish", "fault", "kind"),
    [
        (UNDISTURBED, "length", None, Ending.COMPLETE),
        ((11, 12, 14), "length", None, Ending.WRONG),
        ((11, 12), "stop", None, Ending.WRONG),
        ((11, 12), None, IncompleteRead(b""), Ending.CUT),
        ((11, 12), None, None, Ending.CUT),
        ((11, 12), None, TimeoutError("timed out"), Ending.HUNG),
    ],
)
def test_an_ending_is_recognised(say, dialect, tokens, finish, fault, kind):
    found = kills.trial(heard(say(*tokens, finish=finish), fault), dialect, UNDISTURBED, 0.5)
    assert found["ending"] == kind.value
    assert (found["tokens"], found["wanted"]) == (len(tokens), 3)
    assert found["as_undisturbed"] is (tokens[:3] == UNDISTURBED[: len(tokens)])
    assert (found["noticed_ms"] is None) is (found["gap_ms"] is not None) is (kind in (Ending.COMPLETE, Ending.WRONG))


@pytest.mark.parametrize("dialect", [openai_word, llama_word])
def test_an_error_event_is_told_in_its_own_words(dialect):
    events = ['{"error":{"message":"a host was lost","code":500}}']
    found = kills.trial(heard(events), dialect, UNDISTURBED, 0.25)
    assert (found["ending"], found["said"], found["noticed_ms"]) == (Ending.REFUSED.value, "a host was lost", 750.0)


def test_a_gap_counts_from_the_last_token_before_the_kill():
    lines = [
        (at, line)
        for (_, line), at in zip(heard(ours(*UNDISTURBED, finish="length")).lines, (0, 5, 6, 6.1), strict=True)
    ]
    found = kills.trial(Heard(200, 0.0, lines, 6.2, None), openai_word, UNDISTURBED, 0.5)
    assert (found["gap_ms"], found["tokens_after_kill"]) == (5000.0, 2)
    later = kills.trial(Heard(200, 0.0, lines, 6.2, None), openai_word, UNDISTURBED, 5.5)
    assert (later["gap_ms"], later["tokens_after_kill"]) == (1000.0, 1)


def test_a_line_that_broke_off_is_no_event():
    half = Heard(200, 0.0, [(1.0, b'data: {"index":0,"con')], 2.0, None)
    assert half.events() == []
    assert kills.said(half, llama_word) == "HTTP 200, no end"


def test_totals_count_what_was_lost():
    good = kills.trial(heard(ours(*UNDISTURBED, finish="length")), openai_word, UNDISTURBED, 0.5)
    bad = kills.trial(heard(ours(11), IncompleteRead(b"")), openai_word, UNDISTURBED, 0.5)
    alive, gone = ({"front_alive": each, "next_answered": each} for each in (True, False))
    found = kills.totals([good | alive, bad | gone, bad | gone | alive])
    assert (found["kills"], found["complete"], found["tokens_lost"]) == (3, 1, 4)
    assert (found["fronts_alive"], found["served_after"]) == (2, 2)
    assert found["endings"] == {Ending.COMPLETE.value: 1, Ending.CUT.value: 2}
    assert found["noticed_ms"] == {"min": 500.0, "median": 500.0, "max": 500.0}
    assert found["gap_ms"]["max"] == 1000.0
    assert found["all_as_undisturbed"]


def test_the_host_dies_at_the_token_it_should():
    with subprocess.Popen(["sleep", "60"]) as victim:
        deaths = []

        def ask(count, told):
            for number in range(1, count + 1):
                told(number)
                deaths.append(victim.poll() if number < 3 else victim.wait(10))
            return heard(ours(*range(count)))

        kills.strike(ask, Blow(tokens=4, after_tokens=3), victim.pid)
    assert deaths == [None, None, -signal.SIGKILL, -signal.SIGKILL]


@contextmanager
def answering(*pieces):
    """A server that takes one request, sends the pieces as they are and hangs up; at None it waits to be left."""
    with socket.create_server(("127.0.0.1", 0)) as door:

        def answer():
            connection, _ = door.accept()
            with connection:
                request = b""
                while not request.endswith(b"{}"):  # the body, which may come after the headers
                    request += connection.recv(65536)
                for piece in pieces:
                    if piece is None:
                        connection.recv(1)
                    else:
                        connection.sendall(piece)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
        thread.join(10)


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b'13\r\ndata: {"tokens":1}\n\r\n'


@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        ((HEAD, CHUNK, b"0\r\n\r\n"), type(None)),
        ((HEAD, CHUNK), type(None)),  # gone between two chunks: to the library, an end like others
        ((HEAD, CHUNK, CHUNK[:9]), IncompleteRead),
        ((HEAD, CHUNK, None), TimeoutError),
    ],
)
def test_a_client_keeps_what_came_and_how_it_ended(pieces, fault):
    told = []
    with answering(*pieces) as api:
        found = client.post(api, "/", {}, {}, told.append, silence_s=0.2)
    assert [event for _, event in found.events()] == [{"tokens": 1}]
    assert type(found.fault) is fault
    assert told[0] == 1


def test_llama_bench_is_read_as_milliseconds():
    tests = [
        {"n_prompt": 128, "n_gen": 0, "samples_ns": [200_000_000]},
        {"n_prompt": 0, "n_gen": 96, "samples_ns": [960_000_000]},
    ]
    assert bench_samples(tests) == {"decode_ms": [10.0], "prefill_ms": [200.0]}


def test_the_reason_of_an_abort_is_found_in_the_log():
    log = "srv\n/some/where/ggml-rpc.cpp:566: Remote RPC server crashed or returned malformed response\nrest\n"
    assert last_words(log) == "ggml-rpc.cpp:566: Remote RPC server crashed or returned malformed response"
    assert last_words("all is well\n") == ""
