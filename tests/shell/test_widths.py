"""Only what a manifest certifies may be planned with."""

from shoal_agent.core.facts import Width
from shoal_agent.shell.model_facts import facts_of
from shoal_agent.shell.widths import widths_of
from shoal_protocol.widths import row_bytes


def without_certificates(manifest):
    boundary = manifest.boundary.model_copy(update={"certificates": ()})
    return manifest.model_copy(update={"boundary": boundary})


def test_a_package_without_certificates_travels_as_it_is(tiny_store):
    assert widths_of(without_certificates(tiny_store.load("tiny"))) == (Width("f32"),)


def test_the_core_hears_what_was_measured(tiny_store):
    manifest = tiny_store.load("tiny")
    losses = {each.width: each.loss_micronats for each in manifest.boundary.certificates}
    assert {width.name: width.loss for width in facts_of(manifest).widths} == {"f32": 0} | losses


def test_narrower_widths_take_less_of_a_link_and_some_time(tiny_store):
    manifest = tiny_store.load("tiny")
    whole = manifest.boundary.bytes_per_token
    widest, *others = widths_of(manifest)
    assert [width.name for width in others] == ["f16", "i8x32", "i8"]
    for width in others:
        assert -(-whole * width.size_permille // 1000) + width.extra_bytes_per_token == row_bytes(
            width.wire, whole // 4
        )
        assert width.codec_ps_per_byte > widest.codec_ps_per_byte == 0
