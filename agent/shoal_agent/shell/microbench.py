"""How fast is this device? One second of the operation that everything else waits for.

Quantised matrix products in a row (int8 weights in blocks of 32, 1024 x 1024 each), one position at a time, for about
a second. Together they are 32 MiB, because a decode step reads every weight once and waits for memory: with 8 MiB,
which fit the cache of a server, the same machine seemed 3 times faster (51 GMAC/s) than it decodes (16; with 32 MiB
17), and a planner would have taken a small device, whose cache hides nothing, for 3 times slower than it is. The best
tenth of the runs counts: interference only ever slows a run down, so the fastest ones are the device, the others its
neighbours.

    speed = multiply-accumulates per second = runs x 32 x 1024 x 1024 / time

The number means nothing by itself; blocks were timed on a machine of known speed by the same measure, and a planner
scales by the ratio. The graph is written here byte by byte in ONNX's protobuf format (a dozen fields), because a
node that only hosts blocks does not carry the ``onnx`` package.
"""

import time
from typing import Final

import numpy as np

from shoal_agent.shell.ort import Cancel, open_graph, value_of

SIDE: Final = 1024
LAYERS: Final = 32
BLOCK: Final = 32
BUDGET_S: Final = 1.0
RUNS_MIN: Final = 10
_SCALE: Final = 1 / (74 * 32)
"""Weights of -128..127 have a deviation of 74, a sum of SIDE of them sqrt(SIDE) times that: so a product is as large as
its input, and no layer works on zeros or denormal numbers."""
BEST_SHARE: Final = 10
"""One run in this many counts."""

_FLOAT: Final = 1
_UINT8: Final = 2
_ATTRIBUTE_INT: Final = 2
_VARINT: Final = 0
_BYTES: Final = 2
_ACCURACY_INT8: Final = 4


def measure_speed(budget_s: float = BUDGET_S) -> int:
    """Multiply-accumulates per second of one stream of runs on this device, on the pool that is configured."""
    session = open_graph(benchmark_graph())
    binding = session.binding()
    binding.bind_input("x", value_of(np.ones((1, SIDE), np.float32)))
    binding.bind_output("y", value_of(np.zeros((1, SIDE), np.float32)))
    cancel = Cancel()
    binding.run(cancel)
    times: list[float] = []
    end = time.perf_counter() + budget_s
    while len(times) < RUNS_MIN or time.perf_counter() < end:
        begun = time.perf_counter()
        binding.run(cancel)
        times.append(time.perf_counter() - begun)
    best = sorted(times)[: max(1, len(times) // BEST_SHARE)]
    return int(LAYERS * SIDE * SIDE * len(best) / sum(best))


def benchmark_graph() -> bytes:
    """The benchmark as a serialised ONNX model: x [1, SIDE] float -> y [1, SIDE] float."""
    generator = np.random.default_rng(0)
    scales = np.full(SIDE * SIDE // BLOCK, _SCALE, np.float32)
    parts: list[bytes] = []
    for layer in range(LAYERS):
        source = "x" if layer == 0 else f"h{layer - 1}"
        target = "y" if layer == LAYERS - 1 else f"h{layer}"
        parts.append(_message(1, _product([source, f"w{layer}", f"s{layer}"], target)))
    parts.append(_text(2, "speed"))
    for layer in range(LAYERS):
        weights = generator.integers(0, 256, (SIDE, SIDE // BLOCK, BLOCK), np.uint8)
        parts.append(_message(5, _tensor(f"w{layer}", _UINT8, weights)))
        parts.append(_message(5, _tensor(f"s{layer}", _FLOAT, scales)))
    graph = b"".join([*parts, _message(11, _value("x")), _message(12, _value("y"))])
    opsets = _message(8, _text(1, "") + _int(2, 21)) + _message(8, _text(1, "com.microsoft") + _int(2, 1))
    return _int(1, 10) + _message(7, graph) + opsets


def _product(inputs: list[str], output: str) -> bytes:
    sizes = {"K": SIDE, "N": SIDE, "bits": 8, "block_size": BLOCK, "accuracy_level": _ACCURACY_INT8}
    attributes = b"".join(
        _message(5, _text(1, name) + _int(3, value) + _int(20, _ATTRIBUTE_INT)) for name, value in sizes.items()
    )
    names = b"".join(_text(1, name) for name in inputs) + _text(2, output)
    return names + _text(4, "MatMulNBits") + attributes + _text(7, "com.microsoft")


def _tensor(name: str, element: int, array: np.ndarray) -> bytes:
    dims = b"".join(_int(1, size) for size in array.shape)
    return dims + _int(2, element) + _text(8, name) + _message(9, array.tobytes())


def _value(name: str) -> bytes:
    shape = b"".join(_message(1, _int(1, size)) for size in (1, SIDE))
    tensor = _int(1, _FLOAT) + _message(2, shape)
    return _text(1, name) + _message(2, _message(1, tensor))


# --- protobuf: a field is (number << 3 | wire type), then a varint or a length and that many bytes ------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _int(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _message(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(body)) + body


def _text(number: int, text: str) -> bytes:
    return _message(number, text.encode())
