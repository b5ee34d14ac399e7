"""The tables of SPEC.md, made from the code: ``python protocol/spec_tables.py`` writes them in place.

Between ``<!-- begin NAME -->`` and ``<!-- end NAME -->`` the page belongs to this script; the rest is written by hand.
A test compares, so the page cannot drift from what nodes really accept.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from typing import Final

from shoal_protocol import light, limits, measured, messages
from shoal_protocol.codec import HEADERS, KIND_OF, MESSAGES
from shoal_protocol.content import ContentKind
from shoal_protocol.envelope import ROLES, SealedStatement, Statement, payload_type
from shoal_protocol.fields import field_coders
from shoal_protocol.frames import PAYLOAD_KINDS, UNMETERED
from shoal_protocol.headers import CloseReason, RefusalCode, Sampling, ServiceFault
from shoal_protocol.relay import CircuitStatement, RelayKind
from shoal_protocol.roster import Member, Role, RootSignature, Roster, SignedRoster
from shoal_protocol.tensors import Dtype
from shoal_protocol.topics import TREE
from shoal_protocol.trust import GuardedBlocks
from shoal_protocol.votes import RecoveryStatement, VoteStatement
from shoal_protocol.widths import ActivationWidth

SPEC: Final = Path(__file__).with_name("SPEC.md")
PARTS: Final = (
    messages.Endpoint,
    messages.Capacity,
    messages.Load,
    messages.HostedStage,
    measured.LinkMeasured,
    measured.DemandMeasured,
    messages.Ballot,
    messages.Stamp,
    messages.Head,
    light.ServiceLoad,
)
ENUMS: Final[tuple[type[IntEnum], ...]] = (
    messages.NodePhase,
    messages.DeploymentPhase,
    messages.VoteKind,
    messages.Verdict,
    messages.Objective,
    messages.Cause,
    messages.SwitchMode,
    ActivationWidth,
    Role,
    Dtype,
    RefusalCode,
    CloseReason,
    ServiceFault,
    ContentKind,
    RelayKind,
)


def _cell(text: str) -> str:
    """``text`` inside a Markdown table."""
    return " ".join(text.replace("``", "`").replace("|", "\\|").split())


def _summary(cls: type) -> str:
    return _cell((cls.__doc__ or "").split("\n\n")[0])


def _record(cls: type, title: str, *, signed: bool) -> Iterator[str]:
    """One table: the positions of the array, each with what it may hold."""
    yield from (f"**{title}**: {_summary(cls)}", "", "| # | field | on the wire |", "|--:|---|---|")
    for index, (field, coder) in enumerate(zip(fields(cls), field_coders(cls, signed=signed), strict=True)):
        yield f"| {index} | `{field.name}` | {_cell(coder.text)} |"
    yield ""


def _messages() -> Iterator[str]:
    for cls in MESSAGES:
        kind = KIND_OF[cls]
        roles = " or ".join(role.name.lower() for role in ROLES[cls])
        yield from _record(cls, f"{kind} {cls.__name__}", signed=True)
        yield from (f"Said by: {roles}. Signed as `{payload_type(kind)}`.", "")


def _headers() -> Iterator[str]:
    for cls in HEADERS:
        kind = KIND_OF[cls]
        yield from _record(cls, f"{kind} {cls.__name__}", signed=False)
        payload = "May carry a payload." if kind in PAYLOAD_KINDS else "No payload."
        credit = "Exempt from credit." if cls in UNMETERED else "Consumes credit."
        yield from (f"{payload} {credit}", "")


def _records(classes: tuple[type, ...], *, signed: bool = True) -> Iterator[str]:
    for cls in classes:
        yield from _record(cls, cls.__name__, signed=signed)


def _enums() -> Iterator[str]:
    yield from ("| enumeration | numbers |", "|---|---|")
    for enum in ENUMS:
        yield f"| {enum.__name__} | {', '.join(f'{member.value} {member.name}' for member in enum)} |"
    yield ""


def _topics() -> Iterator[str]:
    yield from ("| topic | what is said there |", "|---|---|")
    for cls, pattern in TREE.items():
        yield f"| `{pattern}` | {_summary(cls)} |"
    yield ""


def _limits() -> Iterator[str]:
    """The limits that the protocol's own modules apply; the others are the agent's private matter."""
    package = Path(limits.__file__).parent
    used = {
        alias.name
        for path in package.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == limits.__name__
        for alias in node.names
    }
    yield from ("| limit | value | reason |", "|---|--:|---|")
    for statement, after in pairwise(ast.parse(Path(limits.__file__).read_text(encoding="utf-8")).body):
        if isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr):
            name, reason = ast.unparse(statement.target), ast.literal_eval(after.value)
            if name in used:
                yield f"| `{name}` | {getattr(limits, name)} | {_cell(reason)} |"
    yield ""


def sections() -> dict[str, str]:
    """The text of every generated section, by its name in the page."""
    return {
        "messages": "\n".join((*_messages(), *_records(PARTS))),
        "headers": "\n".join((*_headers(), *_records((Sampling,), signed=False))),
        "envelope": "\n".join(_records((SealedStatement, Statement))),
        "plan": "\n".join(_records((messages.Plan, messages.Terms, messages.PlanStage, GuardedBlocks))),
        "votes": "\n".join(_records((VoteStatement, RecoveryStatement))),
        "relay": "\n".join(_records((CircuitStatement,))),
        "roster": "\n".join(_records((SignedRoster, RootSignature, Roster, Member))),
        "enums": "\n".join(_enums()),
        "topics": "\n".join(_topics()),
        "limits": "\n".join(_limits()),
    }


def filled(page: str) -> str:
    """``page`` with every section as the code has it now; an assertion if a section has no place or several."""
    for name, text in sections().items():
        pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->\n)"
        page, count = re.subn(pattern, lambda m, text=text: f"{m[1]}\n{text}\n{m[2]}", page, flags=re.DOTALL)
        assert count == 1, f"SPEC.md has {count} places for {name}"
    return page


if __name__ == "__main__":
    SPEC.write_text(filled(SPEC.read_text(encoding="utf-8")), encoding="utf-8")
