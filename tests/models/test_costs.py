"""Costs by a clock of our own: what is measured, in which order, and what is made of it."""

from dataclasses import dataclass, field

import pytest

from shoal_models.blocks import build_embed, build_head, build_layer, store_shared
from shoal_models.costs import PREFILL_TOKENS, measure_costs
from shoal_models.importers.gguf import read_llama
from shoal_models.importers.gguf_file import read_gguf
from shoal_models.package import Store
from shoal_models.ports import no_progress


@dataclass
class Machine:
    """Runs nothing; every run of a kind of block takes a set time, plus a burst now and then."""

    now_ns: int = 0
    log: list[tuple[str, int]] = field(default_factory=list)
    burst_every: int = 0

    def open(self, graph: bytes, blobs) -> "Session":
        kind = "embed" if b"GatherBlockQuantized" in graph else "layer" if b"GroupQuery" in graph else "head"
        return Session(self, kind)


@dataclass
class Session:
    machine: Machine
    kind: str

    def run(self, feeds):
        tokens = next(value for name, value in feeds.items() if name in ("input_ids", "hidden")).shape[1]
        self.machine.log.append((self.kind, tokens))
        if self.kind == "layer":
            assert feeds["seqlens_k"].tolist() == [tokens - 1]
            assert feeds["total_sequence_length"].tolist() == tokens
            assert feeds["past_key"].shape == (1, 2, tokens, 16)
        self.machine.now_ns += {"embed": 10, "layer": 300 * tokens, "head": 1500}[self.kind] * 1000
        if self.machine.burst_every and len(self.machine.log) % self.machine.burst_every == 0:
            self.machine.now_ns += 50_000_000
        return {}


@pytest.fixture(scope="module")
def built(tiny_gguf, tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("costs"))
    source = read_llama(read_gguf(tiny_gguf))
    with store.exclusive():
        shared = store_shared(store, source, "int8")
        layers = [build_layer(store, source, index, shared, "int8") for index in range(4)]
        return (build_embed(source.shape, shared), *layers, build_head(store, source, shared, "int8"))


def measured(built, machine: Machine, context: int = 512):
    return measure_costs(built, None, context, machine, lambda: machine.now_ns, no_progress)


def test_costs_in_microseconds_at_two_lengths(built):
    costs = measured(built, Machine())
    assert [cost.decode_us for cost in costs] == [10, 300, 300, 300, 300, 1500]
    assert [cost.prefill_us for cost in costs] == [10, *[300 * PREFILL_TOKENS] * 4, 1500]


def test_blocks_run_in_the_order_of_the_chain(built):
    machine = Machine()
    measured(built, machine)
    kinds = [kind for kind, _ in machine.log]
    chain = ["embed", *["layer"] * 4, "head"]
    assert kinds == chain * (len(kinds) // len(chain))


def test_a_burst_of_somebody_else_does_not_count(built):
    assert measured(built, Machine(burst_every=7)) == measured(built, Machine())


def test_a_short_context_is_measured_whole(built):
    machine = Machine()
    measured(built, machine, context=64)
    assert {tokens for _, tokens in machine.log} == {1, 64}


def test_a_run_of_no_time_still_costs_something(built):
    machine = Machine()
    costs = measure_costs(built, None, 512, machine, lambda: 0, no_progress)
    assert {cost.decode_us for cost in costs} == {1}
