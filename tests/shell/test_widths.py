"""Only what a manifest certifies may be planned with."""

from shoal_agent.core.problem import Width
from shoal_agent.shell.widths import widths_of


def certified(manifest, *names):
    boundary = manifest.boundary.model_copy(update={"certified_widths": names})
    return widths_of(manifest.model_copy(update={"boundary": boundary}))


def test_a_package_as_imported_travels_as_it_is(tiny_store):
    assert widths_of(tiny_store.load("tiny")) == (Width("f32"),)


def test_narrower_widths_take_less_and_lose_more(tiny_store):
    widest, half, quarter = certified(tiny_store.load("tiny"), "i8", "f32", "f16")
    assert [width.name for width in (widest, half, quarter)] == ["f32", "f16", "i8"]
    assert widest.size_permille > half.size_permille > quarter.size_permille
    assert widest.loss < half.loss < quarter.loss
    assert widest.codec_ps_per_byte == 0 < half.codec_ps_per_byte < quarter.codec_ps_per_byte
