"""In which widths a model's activations may travel, for planning: what its manifest certifies, and what each costs.

    width   bytes of f32                                  converting, both ends
    f32     all                                           none
    f16     half                                          1.1 ns a byte of f32, and 6 us a run
    i8x32   a quarter, and an eighth of that in steps     0.8 ns, and 22 us
    i8      a quarter, and 4 bytes of step a token        0.4 ns, and 22 us

Converting was measured with numpy over 1 and 128 rows of 576 values (SmolLM2's neck), best of 300 runs. A run is
counted for every token, for that is what answering takes; a prompt's rows are converted together. So a narrow model
gains by narrow activations only on links that are slow: 1.7 kB less are 17 us of gigabit Ethernet. What each width
loses is the certificate's to say.
"""

from typing import Final

from shoal_agent.core.facts import Width, on_wire
from shoal_models.manifest import Boundary, Manifest, NarrowWidth
from shoal_protocol.widths import row_bytes

_CODEC: Final[dict[NarrowWidth, tuple[int, int]]] = {"f16": (1100, 6), "i8x32": (800, 22), "i8": (400, 22)}
"""Picoseconds a byte of f32, and microseconds a run."""


def widths_of(manifest: Manifest) -> tuple[Width, ...]:
    """The widths of ``manifest``, the full one first; losses in micronats."""
    boundary = manifest.boundary
    return (Width("f32"), *(_width(boundary, each.width, each.loss_micronats) for each in boundary.certificates))


def _width(boundary: Boundary, name: NarrowWidth, loss: int) -> Width:
    whole = boundary.bytes_per_token
    values = whole // 4
    permille = 500 if name == "f16" else 250
    steps = row_bytes(on_wire(name), values) - whole * permille // 1000
    ps_per_byte, run_us = _CODEC[name]
    return Width(name, permille, steps, ps_per_byte + run_us * 1_000_000 // whole, loss)
