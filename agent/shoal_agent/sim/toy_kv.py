"""The toy model's KV: for every block and position the running sum that the position left behind.

A run at position p reads the sums at p-1 and writes from p on, as attention reads what came before, so a session may
go back and run positions again, and rows that another node computed are as good as its own. What a run or an import
makes stale is dropped at once: a node that counted on it is found out by the next assertion. Nothing here is what a
peer says but the bytes of ``write``.
"""

from shoal_agent.core.facts import LeftOut, ModelFacts, StageSpan
from shoal_agent.sim.toy import toy_blocks


class ToyKv:
    """One session's KV on the blocks of ``span``, but for those that it does without.

    A row takes as many bytes as the model's facts promise.
    """

    def __init__(self, facts: ModelFacts, span: StageSpan, tokens_max: int, left_out: LeftOut | None = None) -> None:
        self.span, self.left_out = span, left_out
        self._tokens_max = tokens_max
        self._row_bytes = [block.kv_bytes_per_token for block in facts.blocks]
        self._left_out = range(0) if left_out is None else range(left_out[0], left_out[1] + 1)
        run = [block for block in range(span.first_block, span.last_block + 1) if block not in self._left_out]
        self._sums: dict[int, list[int]] = {block: [] for block in run}

    @property
    def held(self) -> int:
        """Positions that all blocks have."""
        return min((len(sums) for sums in self._sums.values()), default=self._tokens_max)

    def run(self, values: list[int], position: int) -> list[int]:
        """``values`` through all blocks, one position each."""
        assert self.held >= position, "a run begins where KV is"
        assert position + len(values) <= self._tokens_max, "the session was opened for fewer positions"
        for sums in self._sums.values():
            del sums[position:]
        return [self._step(value) for value in values]

    def _step(self, value: int) -> int:
        memory = {block: sums[-1] for block, sums in self._sums.items() if sums}
        out = toy_blocks(value, self.span.first_block, self.span.last_block, memory, self._left_out)
        for block, sums in self._sums.items():
            sums.append(memory[block])
        return out

    def read(self, first_block: int, last_block: int, position: int, token_count: int) -> bytes:
        """Rows of positions that were run or imported, block by block."""
        end = position + token_count
        wanted = [block for block in range(first_block, last_block + 1) if block not in self._left_out]
        assert all(len(self._sums[block]) >= end for block in wanted), "only KV that is there is exported"
        rows = [
            row.to_bytes(self._row_bytes[block], "little")
            for block in wanted
            for row in self._sums[block][position:end]
        ]
        return b"".join(rows)

    def write(self, first_block: int, last_block: int, position: int, token_count: int, data: bytes) -> str:
        """Take over rows; why not, if their number of bytes is wrong."""
        wanted = [block for block in range(first_block, last_block + 1) if block not in self._left_out]
        assert position + token_count <= self._tokens_max, "the session was opened for fewer positions"
        assert all(len(self._sums[block]) >= position for block in wanted), "rows are imported where KV ends, or before"
        expected = token_count * sum(self._row_bytes[block] for block in wanted)
        if len(data) != expected:
            return f"{len(data)} bytes came, {expected} are {token_count} rows"
        at = 0
        for block in wanted:
            size = self._row_bytes[block]
            ends = range(at, at + token_count * size, size)
            self._sums[block][position:] = [int.from_bytes(data[start : start + size], "little") for start in ends]
            at += token_count * size
        return ""
