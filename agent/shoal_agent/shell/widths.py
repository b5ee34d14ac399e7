"""In which widths a model's activations may travel, for planning: what its manifest certifies, and what each costs.

    width   bytes of f32    converting, both ends     tokens whose first choice changes, per cut
    f32     all             none                      none
    f16     half            measured below            3 in 1000
    i8      a quarter, and 4 bytes of scale a token   73 in 1000

Converting was measured with numpy over 128 x 576 values (SmolLM2's neck): 1.0 ns a byte of f32 for f16 and back, 1.6
for i8, best of 300 runs. The last column is a public measurement of another model (Qwen2.5-0.5B, bf16 and int8 with one
scale per token): an assumption, until an importer measures each model. Packages certify f32 alone today, so there is
nothing to choose for them.
"""

from typing import Final

from shoal_agent.core.problem import Width
from shoal_models.manifest import ElementType, Manifest

_WIDTHS: Final[dict[ElementType, Width]] = {
    "f32": Width("f32"),
    "f16": Width("f16", 500, 0, 1000, 3),
    "i8": Width("i8", 250, 4, 1600, 73),
}
"""``loss`` is in thousandths of tokens whose first choice changes."""


def widths_of(manifest: Manifest) -> tuple[Width, ...]:
    """The certified widths of ``manifest``, widest first."""
    return tuple(width for name, width in _WIDTHS.items() if name in manifest.boundary.certified_widths)
