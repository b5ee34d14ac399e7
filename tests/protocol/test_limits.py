import ast
from pathlib import Path

import pytest

from shoal_protocol import limits
from shoal_protocol.codec import encode_plan
from shoal_protocol.envelope import seal
from shoal_protocol.ids import (
    ClusterId,
    DeploymentId,
    Digest,
    Epoch,
    Incarnation,
    Sequence,
    node_id_from_bytes,
    node_id_of,
)
from shoal_protocol.messages import (
    Ack,
    Ballot,
    Cause,
    Certified,
    EvidenceFound,
    Head,
    Plan,
    PlanStage,
    Proposed,
    RecoveryOrdered,
    Stamp,
    SwitchMode,
    Syn,
    SynAck,
    Terms,
)
from shoal_protocol.sealing import Ed25519Sealer


def constants():
    return {name: value for name, value in vars(limits).items() if name.isupper()}


def test_every_bound_is_a_positive_number():
    assert all(type(value) in (int, float) and value > 0 for value in constants().values())


def test_every_bound_has_its_reason_beside_it():
    body = ast.parse(Path(limits.__file__).read_text()).body
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign):
            assert isinstance(after, ast.Expr), ast.unparse(statement)
            assert isinstance(after.value, ast.Constant)
            assert len(str(after.value.value)) > 5


def test_a_frame_of_the_largest_chunk_fits():
    assert limits.PREFILL_CHUNK_TOKENS * 16_384 * 4 <= limits.PAYLOAD_BYTES_MAX


def test_what_travels_inside_fits_into_what_carries_it():
    assert limits.PLAN_BYTES_MAX < limits.ENVELOPE_BYTES_MAX
    assert limits.STAGES_MAX * 30 < limits.PLAN_BYTES_MAX
    assert limits.TEXT_BYTES_MAX < limits.HEADER_BYTES_MAX
    assert limits.CREDIT_BYTES <= limits.CREDIT_BYTES_MAX


SEALER = Ed25519Sealer(bytes(32))
ME = node_id_of(SEALER.public_key)
TOP = limits.INTEGER_MAX
NAME = DeploymentId("d" * 64)
TEXT = "x" * limits.TEXT_BYTES_MAX
NODES = [node_id_from_bytes(index.to_bytes(20)) for index in range(limits.LIST_ITEMS_MAX)]


def sealed_bytes(message) -> int:
    """How long an envelope around ``message`` is, every number in it as large as may be."""
    number = (Incarnation(TOP), Sequence(TOP), limits.TTL_MS_MAX, TOP)
    return len(seal(SEALER, ClusterId("ff" * 16), ME, *number, message))


def ballots(count: int) -> tuple[Ballot, ...]:
    return tuple(Ballot(node, bytes(limits.SIGNATURE_BYTES)) for node in NODES[:count])


STAMPS = tuple(Stamp(node, Incarnation(TOP), Sequence(TOP)) for node in NODES)
HEADS = (Head(NAME, Epoch(TOP)),) * limits.LIST_ITEMS_MAX
DELTAS = (bytes(limits.DELTA_BYTES_MAX // limits.DELTAS_MAX),) * limits.DELTAS_MAX
PLAN = bytes(limits.PLAN_BYTES_MAX)
PROPOSED = Proposed(NAME, Epoch(TOP), limits.ROUNDS_MAX, limits.ROUNDS_MAX, PLAN, support=ballots(limits.VOTERS_MAX))
LARGEST = {
    "proposed": PROPOSED,
    "certified": Certified(PLAN, limits.ROUNDS_MAX, ballots(limits.VOTERS_MAX)),
    "recovery": RecoveryOrdered(PLAN, ballots(limits.ROOT_KEYS_MAX)),
    "evidence": EvidenceFound(bytes(limits.EVIDENCE_BYTES_MAX), bytes(limits.EVIDENCE_BYTES_MAX)),
    "syn": Syn(ME, STAMPS, HEADS),
    "syn-ack": SynAck(ME, STAMPS, HEADS, DELTAS),
    "ack": Ack(ME, DELTAS),
}


@pytest.mark.parametrize("message", LARGEST.values(), ids=LARGEST.keys())
def test_the_largest_there_may_be_fits_into_an_envelope(message):
    assert sealed_bytes(message) <= limits.ENVELOPE_BYTES_MAX


def test_whatever_a_voter_says_fits_into_evidence():
    assert sealed_bytes(PROPOSED) <= limits.EVIDENCE_BYTES_MAX


def test_a_plan_of_the_most_stages_voters_and_words_fits_four_times():
    stages = tuple(PlanStage(node, block, block) for block, node in enumerate(NODES[: limits.STAGES_MAX - 1]))
    last = PlanStage(ME, limits.STAGES_MAX - 1, limits.BLOCKS_MAX - 1)
    plan = Plan(
        deployment=NAME,
        epoch=Epoch(TOP),
        parent=Digest(bytes(32)),
        model=Digest(bytes(32)),
        context_tokens_max=limits.TOKENS_MAX,
        stages=(*stages, last),
        terms=Terms(zones=(TEXT,) * 8, faulty=2),
        voters=tuple(NODES[: limits.VOTERS_MAX]),
        cause=Cause.HOST_LOST,
        mode=SwitchMode.BREAK_BEFORE_MAKE,
        staging_ms=limits.STAGING_MS_MAX,
        score_us=TOP,
        reason=TEXT,
    )
    assert len(encode_plan(plan)) * 4 <= limits.PLAN_BYTES_MAX
