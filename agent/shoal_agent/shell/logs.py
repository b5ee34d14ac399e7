"""The log: one line per fact on stderr, for journald or for a person.

An agent writes to stderr only; rotation, shipping and keeping are the system's job. Each line carries the first eight
characters of the node's id, because lines of many agents end up in one place. JSON is for machines, console for a
terminal.

*What never gets in.* A log is read by more people than a conversation, so prompts, answers and keys are taken out by
the name of their field, and anything that looks like a credential (a bearer header, one of our API keys, a private
key in PEM) is taken out of every text, whatever its field. Two nets, because each alone has holes. A value is cut at
``VALUE_CHARS_MAX``: an error that quotes ten megabytes must not fill a disk.

Libraries that log through the standard module (uvicorn, asyncio, aiomqtt) are led here too, from WARNING up.
"""

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TextIO

import structlog

from shoal_agent.config import LogSection
from shoal_agent.core.effects import Note

NODE_CHARS: Final = 8
"""Enough of an id to tell the nodes of any cluster apart by eye (40 bits)."""
VALUE_CHARS_MAX: Final = 2048
"""A line of log, generously."""
REDACTED: Final = "[redacted]"

PRIVATE_FIELDS: Final = frozenset(
    {
        "answer",
        "api_key",
        "authorization",
        "body",
        "content",
        "key",
        "messages",
        "password",
        "private_key",
        "prompt",
        "secret",
        "seed",
        "text",
        "token",
    }
)
"""Names of fields whose value never gets in."""
CREDENTIALS: Final = re.compile(
    r"(?i:bearer)\s+\S+"
    r"|shoal-[A-Za-z0-9_-]{32,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
"""What a credential looks like inside other text."""

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_OWN: Final = frozenset({"event", "level", "node", "timestamp", "logger"})
"""What the log itself says on each line; a field of that name gets an underscore."""


class Log:
    """Where an agent says what happens. ``node`` is its id, or empty while there is none."""

    def __init__(self, settings: LogSection, node: str = "", stream: TextIO | None = None) -> None:
        out = sys.stderr if stream is None else stream
        renderer: Any = structlog.processors.JSONRenderer(default=str)
        if settings.format == "console":
            renderer = structlog.dev.ConsoleRenderer(colors=out.isatty())
        stamps = structlog.processors.TimeStamper(fmt="iso", utc=True)
        logger = structlog.wrap_logger(
            structlog.PrintLogger(out),
            processors=[structlog.processors.add_log_level, stamps, redact, renderer],
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[settings.level]),
        )
        self._logger = logger.bind(node=node[:NODE_CHARS]) if node else logger

    def note(self, effect: Note) -> None:
        """Write a line the core asked for."""
        self.say(effect.level, effect.text, dict(effect.fields))

    def say(self, level: str, text: str, fields: Mapping[str, object] | None = None) -> None:
        """Write ``text`` at ``level`` (debug, info, warning, error)."""
        named = {f"{name}_" if name in _OWN else name: value for name, value in (fields or {}).items()}
        self._logger.log(_LEVELS[level], text, **named)

    def adopt_libraries(self) -> None:
        """From now on everything that libraries log at WARNING or above is written here."""
        root = logging.getLogger()
        root.handlers = [_Forward(self)]
        root.setLevel(logging.WARNING)


def redact(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take private values out of one line."""
    return {name: REDACTED if name in PRIVATE_FIELDS else _clean(value) for name, value in fields.items()}


def _clean(value: object) -> object:
    """``value`` without credentials and of bounded length; numbers as they are."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = CREDENTIALS.sub(REDACTED, value if isinstance(value, str) else repr(value))
    return text if len(text) <= VALUE_CHARS_MAX else f"{text[:VALUE_CHARS_MAX]}... ({len(text)} characters)"


class _Forward(logging.Handler):
    """Leads what libraries log to a Log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._tracebacks = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warning"
        fields = {"library": record.name}
        if record.exc_info is not None and record.exc_info[0] is not None:
            fields["traceback"] = self._tracebacks.formatException(record.exc_info)
        self._log.say(level, record.getMessage(), fields)
