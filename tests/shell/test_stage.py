import threading
from itertools import pairwise

import numpy as np
import pytest

from shoal_agent.shell import ort
from shoal_agent.shell.ort import Cancel, EngineError, open_block
from shoal_agent.shell.stage import OpenBlock, Stage, _chain
from shoal_protocol.tensors import payload_of
from shoal_protocol.widths import ActivationWidth, narrow, row_bytes, widen
from tests.support.chain import Chain

TOKENS = [7, 100, 31, 250, 18, 9, 77, 310, 4, 4, 19]
CANCEL = Cancel()
NARROW = [width for width in ActivationWidth if width is not ActivationWidth.F32]


@pytest.fixture(scope="module")
def manifest(tiny_store):
    return tiny_store.load("tiny")


@pytest.fixture(scope="module")
def blocks(tiny_store, manifest):
    ort.configure(1)
    opened = [tiny_store.open_block(manifest, index) for index in range(len(manifest.blocks))]
    return [OpenBlock(each.block, open_block(each.graph, each.blobs)) for each in opened]


@pytest.fixture
def make(blocks, manifest):
    def stage(first: int = 0, last: int = 5, tokens_max: int = 32, **widths: ActivationWidth) -> Stage:
        return Stage(blocks[first : last + 1], manifest.dimensions.vocabulary, tokens_max, **widths)

    return stage


def ids(*tokens: int) -> np.ndarray:
    return np.array([tokens], np.int64)


def run(stage: Stage, data, position: int = 0, count: int | None = None, *, want_logits: bool = True):
    count = data.shape[1] if count is None else count
    return stage.run(data, position, count, want_logits=want_logits, cancel=CANCEL)


def test_token_by_token_it_is_the_chain_of_its_blocks_bit_by_bit(make, tiny_store, manifest):
    chain, stage = Chain(tiny_store, manifest), make()
    for position, token in enumerate(TOKENS):
        logits = run(stage, ids(token), position)
        assert logits.shape == (1, 1, manifest.dimensions.vocabulary)
        assert np.array_equal(logits.reshape(-1), chain.feed([token]))


def test_many_positions_are_the_chain_of_its_blocks_bit_by_bit(make, tiny_store, manifest):
    chain, stage = Chain(tiny_store, manifest), make()
    assert np.array_equal(run(stage, ids(*TOKENS)).reshape(-1), chain.feed(TOKENS))
    assert np.array_equal(run(stage, ids(*TOKENS), len(TOKENS)).reshape(-1), chain.feed(TOKENS))


@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_two_stages_are_one(make, cut):
    whole, first, second = make(), make(0, cut - 1), make(cut, 5)
    for position, tokens in ((0, TOKENS), (11, [3]), (12, [9, 9])):
        hidden = run(first, ids(*tokens), position)
        assert (hidden.shape, hidden.dtype) == ((1, len(tokens), 64), np.float32)
        expected = run(whole, ids(*tokens), position)
        assert np.array_equal(run(second, hidden, position), expected)


@pytest.mark.parametrize("block", range(6))
def test_a_stage_may_be_one_block(make, block):
    stage = make(block, block)
    for count in (1, 3, 1):
        output = run(stage, stage.blank(count))
        assert output.shape == ((1, 1, 320) if block == 5 else (1, count, 64))


def test_no_block_reads_the_buffer_it_writes_and_two_serve_all_necks(blocks):
    chain = _chain(blocks[0].block.inputs[0], [each.block for each in blocks], 3)
    assert len(chain) == 7
    assert all(source is not target for source, target in pairwise(chain))
    assert len({id(value) for value in chain}) == 4, "ids, two necks, logits"


@pytest.mark.parametrize("count", [1, 4])
def test_outputs_belong_to_the_caller(make, count):
    stage = make(0, 2)
    outputs = [run(stage, ids(*[token] * count), position * count) for position, token in enumerate((5, 9, 5))]
    copies = [output.copy() for output in outputs]
    run(stage, ids(*[77] * count), 3 * count)
    assert all(np.array_equal(output, copy) for output, copy in zip(outputs, copies, strict=True))
    assert not np.shares_memory(outputs[0], outputs[1])


@pytest.mark.parametrize("width", NARROW)
def test_narrow_stages_give_and_take_what_travels(make, width):
    """Each converts its own end, and nothing else differs from stages at full width."""
    first, second = make(0, 2, gives=width), make(3, 5, takes=width)
    plain_first, plain_second = make(0, 2), make(3, 5)
    for position, tokens in ((0, TOKENS), (11, [3]), (12, [9])):
        sent = run(first, ids(*tokens), position)
        hidden = run(plain_first, ids(*tokens), position)
        assert payload_of(sent).nbytes == len(tokens) * row_bytes(width, 64) < hidden.nbytes
        assert payload_of(sent).tobytes() == payload_of(narrow(hidden, width)).tobytes()
        expected = run(plain_second, widen(sent, width, hidden.shape), position)
        data = memoryview(b"!" + payload_of(sent).tobytes())[1:]
        assert np.array_equal(run(second, data, position, len(tokens)), expected)
        assert np.array_equal(run(second, sent, position, len(tokens)), expected), "again, from a stage beside it"


@pytest.mark.parametrize("width", NARROW)
def test_full_width_does_not_pass_for_a_narrow_one(make, width):
    stage = make(3, 5, takes=width)
    with pytest.raises(EngineError, match=f"{row_bytes(width, 64)} are {width.name}"):
        run(stage, np.ones((1, 1, 64), np.float32), count=1)


def test_inputs_may_be_read_only_unaligned_or_bytes(make):
    expected = run(make(1, 5), np.ones((1, 2, 64), np.float32))
    raw = np.ones((1, 2, 64), np.float32).tobytes()
    frozen = np.frombuffer(raw, np.float32).reshape(1, 2, 64)
    unaligned = np.frombuffer(b"!" + raw, np.float32, offset=1).reshape(1, 2, 64)
    assert not unaligned.flags.aligned
    for data in (raw, memoryview(raw), frozen, unaligned, frozen.reshape(-1)):
        assert np.array_equal(run(make(1, 5), data, count=2), expected)


def test_positions_can_be_run_again(make):
    """After a lost answer: the later positions are written over and the answer is the same."""
    stage = make()
    run(stage, ids(*TOKENS))
    first = run(stage, ids(5), 11)
    run(stage, ids(8), 12)
    assert np.array_equal(run(stage, ids(5), 11), first)


def test_the_head_is_skipped(make):
    stage, other = make(), make()
    assert run(stage, ids(*TOKENS), want_logits=False) is None
    assert run(stage, ids(4), 11, want_logits=False) is None
    run(other, ids(*TOKENS))
    run(other, ids(4), 11)
    assert np.array_equal(run(stage, ids(5), 12), run(other, ids(5), 12))
    assert run(make(5, 5), np.zeros((1, 1, 64), np.float32), want_logits=False) is None
    assert run(make(0, 3), ids(*TOKENS), want_logits=False) is not None, "only a head can be skipped"


def test_kv_is_what_the_manifest_says_for_every_position(make, manifest):
    assert make(0, 5, tokens_max=10).kv.byte_count == 10 * sum(block.kv_bytes_per_token for block in manifest.blocks)
    assert make(0, 0).kv.byte_count == 0


def test_the_last_position_is_usable_and_the_one_after_it_our_mistake(make):
    stage = make(tokens_max=12)
    run(stage, ids(*TOKENS))
    run(stage, ids(1), 11)
    with pytest.raises(AssertionError, match="fewer positions"):
        run(stage, ids(1), 12)
    with pytest.raises(AssertionError, match="fewer positions"):
        run(stage, ids(1, 1), 11)
    with pytest.raises(AssertionError):
        run(stage, ids(1), -1)


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"", 1),
        (bytes(7), 1),
        (bytes(16), 1),
        (np.zeros((1, 2), np.int64), 1),
        (np.zeros((1, 2), np.float32), 1),
        (np.zeros((1, 1), np.float64), 1),
    ],
)
def test_a_payload_of_another_size_or_type_is_refused(make, data, count):
    with pytest.raises(EngineError, match="came"):
        run(make(), data, count=count)


@pytest.mark.parametrize("tokens", [(-1,), (320,), (2**62,), (3, 320), (-(2**63), 1)])
def test_a_token_outside_the_vocabulary_is_refused(make, tokens):
    with pytest.raises(EngineError, match="vocabulary of 320"):
        run(make(), ids(*tokens))


def test_nonsense_in_hidden_states_stays_in_its_session(make):
    poisoned, healthy = make(1, 5), make(1, 5)
    expected = run(make(1, 5), np.ones((1, 1, 64), np.float32))
    run(poisoned, np.full((1, 4, 64), np.nan, np.float32))
    assert np.array_equal(run(healthy, np.ones((1, 1, 64), np.float32)), expected)


def test_an_input_nobody_provides_is_named(blocks):
    layer = blocks[1]
    ports = [port.model_copy(update={"name": f"new_{port.name}"}) for port in layer.block.inputs]
    strange = OpenBlock(layer.block.model_copy(update={"inputs": tuple(ports)}), layer.session)
    with pytest.raises(EngineError, match=r"layer\.0 wants an input 'new_seqlens_k'"):
        Stage([strange], 320, 4)


def test_a_cancelled_run_names_the_block_and_ends_soon(make):
    stage, cancel = make(tokens_max=512), Cancel()
    data = np.tile(ids(*TOKENS), (1, 40))[:, :400]
    begun, fault = threading.Event(), []

    def work():
        begun.set()
        try:
            while True:
                stage.run(data, 0, 400, want_logits=True, cancel=cancel)
        except EngineError as caught:
            fault.append(str(caught))

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    cancel.set()
    thread.join(10)
    assert not thread.is_alive()
    assert fault[0].startswith("block ")
    assert "terminate" in fault[0]
