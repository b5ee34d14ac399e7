"""The golden vectors: what stands in each file. ``python -m tests.support.vectors`` adds the files that are missing.

A file that exists is never written again: it is what deployed nodes already send.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from shoal_protocol.codec import encode_plan
from shoal_protocol.envelope import KIND_NAMES
from shoal_protocol.frames import encode_frame
from shoal_protocol.roster import sign_roster
from tests.support.house import ROOT
from tests.support.protocol import HEADERS, MESSAGES, PAYLOADS, PLAN, RELAYED, ROOTS, ROSTER, sealed

FOLDER: Final = ROOT / "protocol" / "vectors"
HEX_DIGITS_PER_LINE: Final = 96


def _kebab(name: str) -> str:
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in name)[1:]


def vectors() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every vector."""
    for message in MESSAGES:
        yield f"envelope-{KIND_NAMES[type(message)]}", sealed(message, 3)
    for header in HEADERS:
        payload = PAYLOADS.get(type(header))
        yield f"frame-{_kebab(type(header).__name__)}", encode_frame(header, payload)[0] + (payload or b"")
    for name, message in RELAYED:
        yield f"relay-{name}", message
    yield "plan", encode_plan(PLAN)
    yield "roster", sign_roster(ROSTER, ROOTS[:2])


def stored(name: str) -> bytes:
    """The bytes in the file of vector ``name``."""
    return bytes.fromhex(path_of(name).read_text(encoding="ascii"))


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.hex"


def add_missing() -> None:
    """Write the vectors that have no file yet."""
    for name, data in vectors():
        if not path_of(name).exists():
            digits = data.hex()
            lines = [digits[i : i + HEX_DIGITS_PER_LINE] for i in range(0, len(digits), HEX_DIGITS_PER_LINE)]
            path_of(name).write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    add_missing()
