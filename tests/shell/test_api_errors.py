import json

import pytest
from pydantic import ValidationError

from shoal_agent.core.effects import Finish, Reject
from shoal_agent.core.facts import FinishReason, RejectCode, Usage
from shoal_agent.shell.api.errors import ApiError, broken, invalid_body, rejected, unauthorized, unknown_model
from shoal_agent.shell.api.schemas import ChatBody, CompletionBody
from shoal_protocol.ids import SessionId

SESSION = SessionId(bytes(16))


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (RejectCode.UNKNOWN_MODEL, 404),
        (RejectCode.BAD_PROMPT, 400),
        (RejectCode.CONTEXT_EXCEEDED, 400),
        (RejectCode.OVERLOADED, 429),
        (RejectCode.STOPPING, 429),
        (RejectCode.STARTING, 429),
        (RejectCode.NOT_READY, 503),
        (RejectCode.STAGE_LOST, 503),
        (RejectCode.DEADLINE, 504),
        (RejectCode.INTERNAL, 500),
    ],
)
def test_every_refusal_has_a_status_and_its_code(code, status):
    error = rejected(Reject(SESSION, code, "because", None))
    assert (error.status, error.code, str(error)) == (status, code.value, "because")
    assert "Retry-After" not in error.headers


def test_every_code_of_the_cluster_is_mapped():
    for code in RejectCode:
        assert rejected(Reject(SESSION, code, "", None)).status >= 400


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (2.5, "3"), (60.0, "60")])
def test_retry_after_is_whole_seconds_and_never_too_early(seconds, header):
    assert rejected(Reject(SESSION, RejectCode.OVERLOADED, "", seconds)).headers["Retry-After"] == header


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (FinishReason.STOP, None),
        (FinishReason.LENGTH, None),
        (FinishReason.DEADLINE, 504),
        (FinishReason.CANCELLED, 503),
        (FinishReason.FAILED, 503),
    ],
)
def test_a_stream_that_did_not_end_well_is_an_error(reason, status):
    error = broken(Finish(SESSION, reason, "", Usage(1, 1), "why"))
    assert (error and error.status) == status


def test_the_body_is_openais():
    response = ApiError(400, "no", param="n", code="c").response()
    assert response.status_code == 400
    assert json.loads(response.body) == {
        "error": {"message": "no", "type": "invalid_request_error", "param": "n", "code": "c"}
    }


def test_a_missing_key_is_challenged():
    assert unauthorized().response().headers["WWW-Authenticate"] == "Bearer"


def test_an_unknown_model_is_named_but_not_at_any_length():
    assert "'gpt'" in str(unknown_model("gpt"))
    assert len(str(unknown_model("x" * 100_000))) < 200


@pytest.mark.parametrize(
    ("kind", "body", "param", "code"),
    [
        (ChatBody, b"{", None, "invalid_json"),
        (ChatBody, b"[]", None, "invalid_value"),
        (ChatBody, b"{}", "model", "invalid_value"),
        (ChatBody, b'{"model":"m","messages":[]}', "messages", "invalid_value"),
        (ChatBody, b'{"model":"m","messages":[{"role":"root","content":""}]}', "messages.0.role", "invalid_value"),
        (ChatBody, b'{"model":"m","messages":[{"role":"user","content":5}]}', "messages.0.content", "invalid_value"),
        (ChatBody, b'{"model":"m","messages":[{"role":"user","content":"x"}],"stop":5}', "stop", "invalid_value"),
        (CompletionBody, b'{"model":"m","prompt":[]}', "prompt", "invalid_value"),
        (CompletionBody, b'{"model":"m","prompt":"x","max_tokens":0}', "max_tokens", "invalid_value"),
        (CompletionBody, b'{"model":"m","prompt":"x","max_tokens":"5"}', "max_tokens", "invalid_value"),
    ],
)
def test_a_fault_in_a_body_names_its_field(kind, body, param, code):
    with pytest.raises(ValidationError) as caught:
        kind.model_validate_json(body)
    error = invalid_body(caught.value)
    assert (error.status, error.param, error.code) == (400, param, code)
