import signal

import pytest

from shoal_agent.cli import chat as chat_module
from shoal_agent.cli.chat import Style
from shoal_agent.errors import ExitCode
from tests.support.api_server import KEY, ApiServer, serving
from tests.support.commands import shoal

STYLE = Style("tiny", None, None, None)


@pytest.fixture
def server():
    with serving(ApiServer()) as running:
        yield running


def ask(server, *arguments, stdin=""):
    return shoal("chat", "--api", server.url, "--key", KEY, *arguments, stdin=stdin)


def converse(server, lines, history=None):
    """A conversation typed line by line; an exception in ``lines`` is raised in place of a line."""
    typed = iter([*lines, EOFError()])

    def read(_prompt):
        line = next(typed)
        if isinstance(line, BaseException):
            raise line
        return line

    kept = [] if history is None else history
    chat_module._converse(server.url, KEY, STYLE, kept, read)
    return kept


def test_one_prompt_one_answer(server):
    ended = ask(server, "--prompt", "Hi")
    assert (ended.code, ended.out, ended.err) == (0, "Hello!\n", "")
    (asked,) = server.asked
    assert asked["model"] == "tiny"
    assert asked["messages"] == [{"role": "user", "content": "Hi"}]
    assert asked["stream"] is True
    assert "temperature" not in asked


def test_the_prompt_may_come_from_a_pipe(server):
    assert ask(server, stdin="Why?\n").out == "Hello!\n"
    assert server.asked[0]["messages"][0]["content"] == "Why?"


def test_wishes_reach_the_api(server):
    wishes = ["--temperature", "0", "--max-tokens", "7", "--seed", "3", "--system", "Be brief.", "--model", "other"]
    assert ask(server, "--prompt", "Hi", *wishes).code == 0
    (asked,) = server.asked
    assert (asked["temperature"], asked["max_tokens"], asked["seed"], asked["model"]) == (0, 7, 3, "other")
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}


def test_for_scripts(server):
    ended = ask(server, "--prompt", "Hi", "--json")
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert ended.json == {"model": "tiny", "text": "Hello!", "finish_reason": "stop", "usage": usage}


@pytest.mark.parametrize(
    ("models", "code", "said"),
    [([], ExitCode.FAILED, "shoal deploy"), (["one", "two"], ExitCode.CONFIG, "several models are served: one, two")],
)
def test_a_model_must_be_named_if_there_is_a_choice(server, models, code, said):
    server.models = models
    ended = ask(server, "--prompt", "Hi")
    assert ended.code == code
    assert said in ended.err


@pytest.mark.parametrize("arguments", [["--prompt", " "], ["--prompt", "", "--json"], []])
def test_an_empty_prompt_is_refused(server, arguments):
    ended = ask(server, *arguments)
    assert ended.code == ExitCode.CONFIG
    assert "the prompt is empty" in ended.err


def test_an_error_before_the_stream(server):
    server.refuse = (404, {"error": {"message": "no model of this name"}})
    ended = ask(server, "--model", "x", "--prompt", "Hi", "--json")
    assert ended.code == ExitCode.FAILED
    assert "no model of this name" in ended.json["error"]["message"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('data: {"error": {"message": "a stage was lost"}}\n\n', "the answer broke off: a stage was lost"),
        ("data: not json\n\n", "no event of a stream"),
        ("data: [1]\n\n", "no event of a stream"),
    ],
)
def test_an_error_within_the_stream(server, line, said):
    server.extra_lines = [line]
    ended = ask(server, "--prompt", "Hi")
    assert ended.code == ExitCode.FAILED
    assert said in ended.err


def test_an_answer_without_an_end_is_a_failure(server):
    server.finish_reason = None
    ended = ask(server, "--prompt", "Hi", "--json")
    assert ended.code == ExitCode.FAILED
    assert "ended without saying why" in ended.json["error"]["message"]


def test_comments_and_empty_lines_of_the_stream_are_nothing(server):
    server.extra_lines = [": keep-alive\n\n", "event: x\n\n"]
    assert ask(server, "--prompt", "Hi").out == "Hello!\n"


def test_a_conversation_remembers(server, capsys):
    history = converse(server, ["Hi", "", "And?"])
    assert server.asked[1]["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "And?"},
    ]
    assert len(history) == 4
    assert capsys.readouterr().out == "Hello!\nHello!\n"


def test_reset_forgets_all_but_the_system_prompt(server):
    system = [{"role": "system", "content": "Be brief."}]
    history = converse(server, ["Hi", "/reset", "Again"], [*system])
    assert [message["content"] for message in history] == ["Be brief.", "Again", "Hello!"]


def test_quit_ends_it(server):
    assert converse(server, ["/quit", "never asked"]) == []
    assert server.asked == []


def test_ctrl_c_at_the_prompt_only_explains(server, capsys):
    converse(server, [KeyboardInterrupt(), "Hi"])
    assert "/quit leaves" in capsys.readouterr().err
    assert len(server.asked) == 1


@pytest.fixture
def press():
    """Presses Ctrl-C until it is heard: a signal that comes just before the process waits for a socket wakes nobody."""
    heard = []

    def hear(number, frame):
        signal.setitimer(signal.ITIMER_REAL, 0)
        if not heard:
            heard.append(number)
            signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGALRM, hear)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.05, 0.2)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    assert heard


def test_ctrl_c_stops_the_answer_and_frees_the_cluster(server, capsys, monkeypatch, press):
    server.hold = True
    show = chat_module._show

    def show_then_press(text):
        show(text)
        if text == "Hel":
            press()

    monkeypatch.setattr(chat_module, "_show", show_then_press)
    history = converse(server, ["Tell me everything"])
    assert server.client_gone.wait(10), "the connection must be closed: that is what cancels the generation"
    assert [message["content"] for message in history] == ["Tell me everything", "Hel"]
    assert capsys.readouterr().out == "Hel (stopped)\n"


def test_a_failed_turn_costs_the_turn_only(server, capsys):
    server.refuse = (503, {"error": {"message": "a stage is missing"}})
    assert converse(server, ["Hi"]) == []
    assert "a stage is missing" in capsys.readouterr().err
