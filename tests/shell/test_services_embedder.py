import numpy as np
import pytest

from shoal_agent.core.services import EmbedAnswer, EmbedRequest, pack, unpack
from shoal_agent.shell import ort
from shoal_agent.shell.services.embedder import CHUNK_TOKENS, Embedder
from shoal_agent.shell.services.sessions import ServiceError


@pytest.fixture(scope="module")
def embedder(tiny_store, measurement):
    manifest = tiny_store.load("tiny")
    opened = tiny_store.open_block(manifest, 0)
    return Embedder(lambda: (opened.block, ort.open_block(opened.graph, opened.blobs)), manifest.dimensions.vocabulary)


def vector(embedder, *tokens):
    answer = embedder.embed(EmbedRequest(tokens))
    assert answer.tokens == len(tokens)
    return np.array(answer.vector)


def test_it_is_the_direction_of_the_sum(embedder):
    one, other = vector(embedder, 5), vector(embedder, 9)
    for each in (one, other, vector(embedder, 5, 9, 9)):
        assert np.linalg.norm(each) == pytest.approx(1.0, abs=1e-6)
    assert np.allclose(vector(embedder, 5, 5, 5), one, atol=1e-6)
    assert not np.allclose(one, other, atol=0.1)


def test_order_and_chunks_make_no_difference(embedder):
    tokens = [number % 300 for number in range(2 * CHUNK_TOKENS + 7)]
    assert np.allclose(vector(embedder, *tokens), vector(embedder, *reversed(tokens)), atol=1e-6)


def test_more_in_common_is_nearer(embedder):
    text = vector(embedder, 10, 11, 12, 13)
    assert text @ vector(embedder, 10, 11, 12, 99) > text @ vector(embedder, 200, 201, 202, 203)


@pytest.mark.parametrize("tokens", [(), (320,), (1, 2**31 - 1)])
def test_what_cannot_be_embedded_is_refused(embedder, tokens):
    with pytest.raises(ServiceError):
        embedder.embed(EmbedRequest(tokens))


def test_an_answer_travels(embedder):
    answer = embedder.embed(EmbedRequest((1, 2, 3)))
    assert unpack(EmbedAnswer, pack(answer)) == answer
