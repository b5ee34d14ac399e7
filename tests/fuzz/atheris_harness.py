"""Coverage-guided fuzzing: ``python -m tests.fuzz.atheris_harness --runs N --corpus DIR``.

libFuzzer mutates inputs and keeps those that reach new branches of the protocol or of the core. The first byte of an
input says through which door the rest goes:

    0  bytes of a connection          1  bytes from a broker           2  a message body, well signed by a member
    3  a frame header with a sound checksum, and its payload           4  the seed of one drawn blow (see Siege)

Behind every door is a live node in a small world. A RemoteProtocolError is an answer; anything else that is raised is a
find: libFuzzer prints it, writes the input beside the corpus and ends with a status other than 0.
"""

import argparse
import struct
import sys
import zlib
from pathlib import Path
from random import Random
from typing import Final

import atheris

with atheris.instrument_imports(include=["shoal_protocol", "shoal_agent.core"]):
    from shoal_protocol import headers
    from shoal_protocol.codec import HEADERS, KIND_OF, MESSAGES, decode_message, encode_header, encode_message
    from shoal_protocol.errors import RemoteProtocolError
    from shoal_protocol.frames import FrameReader, encode_frame
    from shoal_protocol.topics import topic_for
    from tests.support.siege import PAYLOADS, Siege
    from tests.support.world import CLUSTER

INPUTS_PER_WORLD: Final = 1000
"""A world that was told enough nonsense hears nothing new."""
INPUT_BYTES_MAX: Final = 4096
INPUT_S_MAX: Final = 20
PREFIX: Final = struct.Struct(">2sBBII")


class Target:
    """What libFuzzer calls."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._inputs = 0
        self._siege = Siege(seed)
        self._doors = (self._stream, self._broker, self._body, self._header, self._blow)

    def __call__(self, data: bytes) -> None:
        """One input."""
        if not data:
            return
        self._inputs += 1
        if self._inputs % INPUTS_PER_WORLD == 0:
            self._siege = Siege(self._seed + self._inputs)
        self._doors[data[0] % len(self._doors)](data[1:])
        self._siege.rest()

    def _stream(self, data: bytes) -> None:
        try:
            frames = FrameReader().feed(data)
        except RemoteProtocolError:
            return
        for frame in frames:
            self._siege.receive(frame, self._siege.world.names[0])

    def _broker(self, data: bytes) -> None:
        message = self._siege.messages[1]
        self._siege.hear(data, topic_for(CLUSTER, self._siege.world.names[0], message))

    def _body(self, data: bytes) -> None:
        kind, body = data[0] % len(MESSAGES) + 1 if data else 1, data[1:]
        sender = self._siege.world.names[0]
        try:
            topic = topic_for(CLUSTER, sender, decode_message(kind, body))
        except RemoteProtocolError:
            topic = topic_for(CLUSTER, sender, self._siege.messages[kind - 1])
        self._siege.hear(self._siege.nonsense(kind, body), topic)

    def _header(self, data: bytes) -> None:
        kind = data[0] % len(HEADERS) + 1 if data else 1
        head, _, payload = data[1:].partition(b"\xff\xff")
        payload = payload if HEADERS[kind - 1] in PAYLOADS else b""
        lengths = PREFIX.pack(b"SH", 1, kind, len(head), len(payload))
        self._stream(lengths + struct.pack(">I", zlib.crc32(head, zlib.crc32(lengths))) + head + payload)

    def _blow(self, data: bytes) -> None:
        self._siege.rng = self._siege.forger.rng = Random(data)
        self._siege.strike()


def seeds(siege: Siege) -> list[bytes]:
    """Inputs to begin with: one of everything through each door."""
    found = [bytes([4, index]) for index in range(8)]
    for message in siege.messages:
        kind, body = encode_message(message)
        found += [bytes([1]) + siege.sealed(message), bytes([2, kind - 1]) + body]
    for header in siege.headers:
        head = encode_header(header)[1]
        found.append(bytes([3, KIND_OF[type(header)] - 1]) + head + b"\xff\xff" + b"payload!")
        if not isinstance(header, headers.Activation):
            found.append(bytes([0]) + encode_frame(header, None)[0])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the protocol and a live node with atheris.")
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--corpus", type=Path, required=True, help="folder of inputs; new ones are added")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.corpus.mkdir(parents=True, exist_ok=True)
    for index, data in enumerate(seeds(Siege(options.seed))):
        (options.corpus / f"seed-{index:03}").write_bytes(data)
    flags = [
        f"-runs={options.runs}",
        f"-seed={options.seed}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_S_MAX}",
        f"-artifact_prefix={options.corpus.parent}/",
    ]
    atheris.Setup([sys.argv[0], *flags, str(options.corpus)], Target(options.seed))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
