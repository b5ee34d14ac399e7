from dataclasses import dataclass

import numpy as np
import pytest

from shoal_agent.experiments.traces import trace_hash


@dataclass(frozen=True)
class Arrival:
    at_ms: float
    kind: str


ARRAY = np.arange(6.0)
DIFFERENT = (
    (1,),
    (1.0,),
    ("1",),
    (b"1",),
    (None,),
    (1, 2),
    ((1, 2),),
    ((1,), 2),
    (np.nextafter(1.0, 2.0),),
    (ARRAY,),
    (ARRAY.reshape(2, 3),),
    (ARRAY.astype(np.float32),),
    ({"a": 1},),
    ({"a": 2},),
    (Arrival(1.0, "x"),),
    (Arrival(1.0, "y"),),
)


def test_whatever_differs_has_another_digest():
    digests = [trace_hash(*parts) for parts in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT)


def test_the_same_has_the_same():
    assert trace_hash({"b": 1, "a": ARRAY}) == trace_hash({"a": ARRAY.copy(), "b": 1})
    assert trace_hash([1, 2.5]) == trace_hash((1, 2.5))
    assert len(trace_hash()) == 32


def test_what_has_no_order_is_refused():
    with pytest.raises(TypeError, match="set"):
        trace_hash({1, 2})
