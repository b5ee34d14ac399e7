"""``shoal chat``: a conversation with a model that the cluster serves, over the same API every application uses.

Ctrl-C while an answer streams closes the connection, which cancels the generation on every node that works on it; the
conversation goes on. What had been said by then stays in the history, as it does in the reader's mind.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final

import httpx
import typer

from shoal_agent.cli.client import DEFAULT_API, Api, Key, api_client, get_json, refuse_error
from shoal_agent.cli.output import AsJson, print_json, progress
from shoal_agent.errors import ConfigError, FailedError, UserError

PROMPT_CHARS_MAX: Final = 1_000_000
"""What is read from a pipe: far beyond any context, and no way to fill memory."""
HELP: Final = "/reset begins anew, /quit leaves, Ctrl-C stops an answer"


@dataclass(frozen=True, slots=True)
class Style:
    """How answers are drawn; None leaves it to the API."""

    model: str
    temperature: float | None
    max_tokens: int | None
    seed: int | None


@dataclass(slots=True)
class Answer:
    """One answer, as far as it has come."""

    text: str = ""
    finish_reason: str = ""
    usage: dict[str, int] | None = None


def chat(
    *,
    prompt: Annotated[str | None, typer.Option(help="Ask this once and end; also read from a pipe.")] = None,
    api: Api = DEFAULT_API,
    key: Key = "",
    model: Annotated[str, typer.Option(help="Which model; needed if several are served.")] = "",
    system: Annotated[str, typer.Option(help="What the model is told before the conversation.")] = "",
    temperature: Annotated[float | None, typer.Option(min=0.0, max=2.0, help="0 is greedy.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same answer.")] = None,
    as_json: AsJson = False,
) -> None:
    """Talk to a model that the cluster serves.

    Example: echo "Why is the sky blue?" | shoal chat --temperature 0
    """
    asked = prompt if prompt is not None else _piped()
    if asked is None and as_json:
        raise ConfigError("--json answers one prompt", "add --prompt TEXT, or pipe the prompt in")
    if asked is not None and not asked.strip():
        raise ConfigError("the prompt is empty", "shoal chat --prompt TEXT")
    history = [{"role": "system", "content": system}] if system else []
    with api_client(api, key) as client:
        style = Style(model or _only_model(client), temperature, max_tokens, seed)
        if asked is not None:
            _answer_once(client, style, [*history, {"role": "user", "content": asked}], as_json=as_json)
            return
    _converse(api, key, style, history)


def _answer_once(client: httpx.Client, style: Style, messages: list[dict[str, str]], *, as_json: bool) -> None:
    answer = Answer()
    for piece in stream_answer(client, style, messages, answer):
        if not as_json:
            _show(piece)
    if not as_json:
        _show("\n")
        return
    print_json(
        {
            "model": style.model,
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "usage": answer.usage,
        }
    )


def stream_answer(client: httpx.Client, style: Style, messages: list[dict[str, str]], answer: Answer) -> Iterator[str]:
    """Yield the pieces of the next answer as they come, keeping ``answer`` up to date."""
    body: dict[str, Any] = {
        "model": style.model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    wishes = {"temperature": style.temperature, "max_tokens": style.max_tokens, "seed": style.seed}
    body |= {name: value for name, value in wishes.items() if value is not None}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if not response.is_success:
            response.read()
            refuse_error(response)
        for line in response.iter_lines():
            if line.startswith("data:") and line[5:].strip() != "[DONE]":
                yield from _pieces(_event(line[5:]), answer)
    if not answer.finish_reason:
        raise FailedError("the answer ended without saying why", "try again; shoal status")


def _event(text: str) -> dict[str, Any]:
    try:
        event = json.loads(text)
    except ValueError as fault:
        raise FailedError(f"no event of a stream: {text[:80]!r}", "is this a shoal agent's API?") from fault
    if not isinstance(event, dict):
        raise FailedError(f"no event of a stream: {text[:80]!r}", "is this a shoal agent's API?")
    return event


def _pieces(event: dict[str, Any], answer: Answer) -> Iterator[str]:
    if "error" in event:
        raise FailedError(f"the answer broke off: {event['error'].get('message', event['error'])}", "shoal status")
    answer.usage = event.get("usage") or answer.usage
    for choice in event.get("choices", ()):
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
        piece = choice.get("delta", {}).get("content") or ""
        if piece:
            answer.text += piece
            yield piece


def _converse(
    api: str, key: str, style: Style, history: list[dict[str, str]], read: Callable[[str], str] = input
) -> None:
    """Ask and answer until the person leaves."""
    begun = len(history)
    progress(f"{style.model} at {api}. {HELP}.")
    while True:
        try:
            line = read("> ").strip()
        except EOFError:
            progress("")
            return
        except KeyboardInterrupt:
            progress(f"\n({HELP})")
            continue
        if line == "/quit":
            return
        if line == "/reset":
            del history[begun:]
            progress("(forgotten)")
        elif line:
            _turn(api, key, style, history, line)


def _turn(api: str, key: str, style: Style, history: list[dict[str, str]], line: str) -> None:
    """One question and its answer; a failure costs the turn, not the conversation."""
    messages = [*history, {"role": "user", "content": line}]
    answer = Answer()
    try:
        with api_client(api, key) as client:
            for piece in stream_answer(client, style, messages, answer):
                _show(piece)
    except KeyboardInterrupt:
        _show(" (stopped)")
    except UserError as fault:
        progress(str(fault))
    if answer.text:
        history[:] = [*messages, {"role": "assistant", "content": answer.text}]
        _show("\n")


def _only_model(client: httpx.Client) -> str:
    """The one model that is served; a UserError if there is none, or a choice to make."""
    names = [str(each["id"]) for each in get_json(client, "/v1/models").get("data", ())]
    if not names:
        raise FailedError("no model is served here", "shoal deploy MODEL, then shoal status")
    if len(names) > 1:
        raise ConfigError(f"several models are served: {', '.join(names)}", f"--model {names[0]}")
    return names[0]


def _piped() -> str | None:
    """What was piped in, or None at a terminal."""
    return None if sys.stdin.isatty() else sys.stdin.read(PROMPT_CHARS_MAX).strip()


def _show(text: str) -> None:
    """Write a piece of an answer; a terminal gets no control sequence out of a model's mouth."""
    if sys.stdout.isatty():
        text = "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")
    sys.stdout.write(text)
    sys.stdout.flush()
