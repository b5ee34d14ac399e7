"""A page opens for whoever has the key, unaltered, and for nobody else."""

from dataclasses import replace

import pytest

from shoal_protocol.errors import LocalProtocolError, RemoteProtocolError
from shoal_protocol.journal import bind_pages, open_page, seal_page, unbind_pages
from shoal_protocol.limits import JOURNAL_PAGES_MAX
from tests.support.protocol import PAGE

KEY = bytes(range(32))


def test_a_page_comes_back_as_it_was():
    assert open_page(KEY, seal_page(KEY, PAGE)) == PAGE


def test_another_key_opens_nothing():
    with pytest.raises(RemoteProtocolError):
        open_page(bytes(32), seal_page(KEY, PAGE))


@pytest.mark.parametrize("position", [0, 23, 24, 40, -1])
def test_an_altered_page_does_not_open(position):
    box = bytearray(seal_page(KEY, PAGE))
    box[position] ^= 1
    with pytest.raises(RemoteProtocolError):
        open_page(KEY, bytes(box))


@pytest.mark.parametrize("length", [0, 5, 24, 39])
def test_a_page_that_was_cut_off_does_not_open(length):
    with pytest.raises(RemoteProtocolError):
        open_page(KEY, seal_page(KEY, PAGE)[:length])


def test_what_was_sealed_shows_nothing_and_does_not_repeat_itself():
    other = replace(PAGE, position=1)
    first, second = seal_page(KEY, PAGE), seal_page(KEY, other)
    assert PAGE.token_ids not in first
    assert first[:24] != second[:24]


def test_pages_travel_together():
    pages = (b"one", b"two" * 100, b"")
    assert unbind_pages(bind_pages(pages)) == pages
    assert unbind_pages(bind_pages(())) == ()


def test_no_more_pages_travel_than_anybody_writes():
    with pytest.raises(LocalProtocolError):
        bind_pages((b"",) * (JOURNAL_PAGES_MAX + 1))
    with pytest.raises(RemoteProtocolError):
        unbind_pages(b"\x92\x90\x90")
