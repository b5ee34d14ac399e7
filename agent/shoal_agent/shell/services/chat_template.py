"""Lays a conversation out as one text, the way the model was taught, by the Jinja template that came with it.

*The template is data from a package.* It runs in Jinja's immutable sandbox: it sees the messages and nothing else, no
attribute that reaches out of them, no file, no clock (a prompt is a function of its messages, so the same request
renders the same on every node). Its size, its output and its time are bounded. The bounds stop accidents; a template
made to burn memory between two pieces of output is stopped by the operator, who chose the package by its digest.

*A message is data from a stranger.* A marker such as ``<|im_end|>`` written in a message must stay text: otherwise
its author ends their own turn and speaks as the system. Refusing such messages would forbid talking about chat
formats, and altering them would misquote the user; so a ``MARKER_BREAK`` is set behind the first character of every
marker a message contains, and the tokenizer, which splits the rendered text at whole markers only, drops it again
(see ``core.services``). Roles are not free text, for templates paste them next to markers.
"""

import json
import re
import time
from collections.abc import Iterator, Sequence
from typing import Final, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shoal_agent.core.services import MARKER_BREAK, ChatMessage, RenderAnswer, RenderRequest
from shoal_agent.shell.services.sessions import ServiceBusyError, ServiceError
from shoal_protocol.limits import (
    CHAT_MESSAGES_MAX,
    CHAT_TEMPLATE_BYTES_MAX,
    CHAT_TEXT_CHARS_MAX,
    SERVICE_CALL_S_MAX,
)

ROLES: Final = ("system", "user", "assistant", "tool")
_REPLACEMENT: Final = "\ufffd"


class ChatTemplate:
    """One model's template. ServiceError if it is no template; ``markers`` are the model's special-token strings."""

    def __init__(self, source: str, markers: Sequence[str], bos: str, eos: str) -> None:
        if len(source.encode()) > CHAT_TEMPLATE_BYTES_MAX:
            raise ServiceError(f"the chat template is larger than {CHAT_TEMPLATE_BYTES_MAX} bytes")
        self._template = _compile(source)
        self._marker_start = _marker_start(markers)
        self._bos = bos
        self._eos = eos

    def render(self, request: RenderRequest) -> RenderAnswer:
        """The conversation as text. Takes milliseconds: not for the event loop."""
        if not 0 < len(request.messages) <= CHAT_MESSAGES_MAX:
            raise ServiceError(f"a conversation has 1 to {CHAT_MESSAGES_MAX} messages, not {len(request.messages)}")
        messages = [{"role": _role(message), "content": self._quoted(message.content)} for message in request.messages]
        values = {
            "messages": messages,
            "add_generation_prompt": request.add_generation_prompt,
            "bos_token": self._bos,
            "eos_token": self._eos,
            "tools": None,
            "documents": None,
        }
        try:
            return RenderAnswer(_bounded(self._template.generate(values)))
        except TemplateError as fault:
            raise ServiceError(f"the chat template refuses: {fault.message or type(fault).__name__}") from None
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as fault:
            # Whatever a template computes from a stranger's messages may fail like any program.
            raise ServiceError(f"the chat template fails on these messages: {fault}") from None

    def _quoted(self, content: str) -> str:
        """``content`` with every marker in it broken: to be read, not obeyed."""
        clean = content.replace(MARKER_BREAK, _REPLACEMENT)
        return self._marker_start.sub(lambda match: match[0] + MARKER_BREAK, clean)


def _bounded(pieces: Iterator[str]) -> str:
    """What the template writes, as long as it is neither too much nor too slow."""
    deadline = time.monotonic() + SERVICE_CALL_S_MAX
    text: list[str] = []
    chars = 0
    for piece in pieces:
        chars += len(piece)
        if chars > CHAT_TEXT_CHARS_MAX:
            raise ServiceError(f"the rendered conversation is longer than {CHAT_TEXT_CHARS_MAX} characters")
        if time.monotonic() > deadline:
            raise ServiceBusyError(f"the chat template took more than {SERVICE_CALL_S_MAX:g} s")
        text.append(piece)
    return "".join(text)


def _compile(source: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    try:
        return environment.from_string(source)
    except TemplateError as fault:
        raise ServiceError(f"the package's chat template is broken: {fault.message}") from None


def _marker_start(markers: Sequence[str]) -> re.Pattern[str]:
    """Matches the first character of every marker, overlapping ones too; nothing if there are no markers."""
    texts = "|".join(map(re.escape, markers)) or "(?!)"
    return re.compile(f"(?={texts}).", re.DOTALL)


def _role(message: ChatMessage) -> str:
    if message.role not in ROLES:
        raise ServiceError(f"unknown role {message.role[:40]!r}: known are {', '.join(ROLES)}")
    return message.role


def _to_json(value: object, indent: int | None = None) -> str:
    """As transformers has it: templates expect plain JSON, not Jinja's, which is escaped for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
