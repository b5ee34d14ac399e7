import ast
from pathlib import Path

from shoal_protocol import limits


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
