"""What clients may ask, as pydantic models, and how it becomes a ``GenerationRequest``.

*Unknown fields are ignored.* Clients send what other servers understand (``user``, ``metadata``, vendor extras), and a
field this API has never heard of cannot have been promised. *Known fields that would change the answer and are not
supported are refused by name*, unless they hold the value that changes nothing: an answer that silently is not what
was asked for is worse than none.

Besides OpenAI's own fields, ``top_k``, ``repetition_penalty`` and ``return_token_ids`` (each choice then has its
``token_ids``) are taken, as other open servers have them. The role
``developer`` is the newer name of ``system``. Without ``max_tokens`` a chat goes on as far as the context allows, a
completion for 16 tokens, as OpenAI has it. Without ``seed`` every request draws its own.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from shoal_agent.core.facts import ChatPrompt, GenerationRequest, Prompt, TextPrompt, TokenPrompt
from shoal_agent.core.services import ChatMessage, RenderRequest, pack
from shoal_agent.shell.api.errors import ApiError
from shoal_protocol.headers import Sampling
from shoal_protocol.ids import DeploymentId, SessionId
from shoal_protocol.limits import (
    CHAT_MESSAGES_MAX,
    INTEGER_MAX,
    REQUEST_DEADLINE_S_MAX,
    STOP_STRING_BYTES_MAX,
    STOP_STRINGS_MAX,
    TOKENS_MAX,
    TOP_LOGPROBS_MAX,
)

COMPLETION_TOKENS_DEFAULT: Final = 16
_TOP_P_MIN: Final = 1e-9
"""OpenAI allows 0, which can only mean the best token alone; the sampler wants a positive share."""

_NEUTRAL: Final[Mapping[str, tuple[object, ...]]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "min_p": (None, 0),
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "prediction": (None,),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "web_search_options": (None,),
}
"""Fields that are understood and not supported, with the values that ask for nothing."""

StopString = Annotated[str, StringConstraints(min_length=1, max_length=STOP_STRING_BYTES_MAX)]
TokenId = Annotated[int, Field(ge=0, le=TOKENS_MAX)]
TokenCount = Annotated[int, Field(ge=1, le=TOKENS_MAX)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class TextPart(_Part):
    """A piece of a message's content. Images and sounds are refused by their type."""

    type: Literal["text"]
    text: str


class Message(_Part):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(max_length=CHAT_MESSAGES_MAX)]


class StreamOptions(_Part):
    """``include_usage``: one more event at the end, with the counts."""

    include_usage: bool | None = None


class _Body(BaseModel):
    """What chats and completions have in common. Unknown fields are kept only to be looked for in ``_NEUTRAL``."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=STOP_STRINGS_MAX)] | None = None
    seed: Annotated[int, Field(ge=-INTEGER_MAX - 1, le=INTEGER_MAX)] | None = None
    max_tokens: TokenCount | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=TOKENS_MAX)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    return_token_ids: bool | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatBody(_Body):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=CHAT_MESSAGES_MAX)]
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS_MAX)] | None = None

    def request(self, session: SessionId, seed: int) -> GenerationRequest:
        """``seed`` is used if the client gave none."""
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs to be true.", param="top_logprobs", code="invalid_value")
        top_logprobs = (self.top_logprobs or 0) if self.logprobs else -1
        tokens_max = self.max_completion_tokens or self.max_tokens
        messages = tuple(ChatMessage(_role(message), _content(message)) for message in self.messages)
        prompt = ChatPrompt(pack(RenderRequest(messages, add_generation_prompt=True)))
        return _request(self, session, seed, prompt, tokens_max, top_logprobs)


class CompletionBody(_Body):
    """``POST /v1/completions``. A list of one prompt is taken for that prompt: some clients always send a list."""

    prompt: (
        str
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[str], Field(min_length=1, max_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=1)]
    )
    logprobs: Annotated[int, Field(ge=0, le=TOP_LOGPROBS_MAX)] | None = None

    def request(self, session: SessionId, seed: int) -> GenerationRequest:
        """``seed`` is used if the client gave none."""
        tokens_max = self.max_tokens or COMPLETION_TOKENS_DEFAULT
        top_logprobs = -1 if self.logprobs is None else self.logprobs
        return _request(self, session, seed, _prompt(self.prompt), tokens_max, top_logprobs)


def _request(
    body: _Body, session: SessionId, seed: int, prompt: Prompt, tokens_max: int | None, top_logprobs: int
) -> GenerationRequest:
    _refuse_unsupported(body)
    sampling = Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=max(0, body.top_k or 0),
        top_p=1.0 if body.top_p is None else max(_TOP_P_MIN, body.top_p),
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        seed=(seed if body.seed is None else body.seed) & INTEGER_MAX,
        top_logprobs=top_logprobs,
    )
    deployment = DeploymentId(body.model)
    stop = _stop(body)
    return GenerationRequest(session, deployment, prompt, sampling, tokens_max, stop, REQUEST_DEADLINE_S_MAX)


def _refuse_unsupported(body: _Body) -> None:
    extra: dict[str, Any] = body.model_extra or {}
    for name, neutral in _NEUTRAL.items():
        if name in extra and extra[name] not in neutral:
            raise ApiError(400, f"{name} is not supported.", param=name, code="unsupported_parameter")


def _stop(body: _Body) -> tuple[str, ...]:
    strings = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    if any(len(string.encode()) > STOP_STRING_BYTES_MAX for string in strings):
        message = f"stop: a stop string has at most {STOP_STRING_BYTES_MAX} bytes."
        raise ApiError(400, message, param="stop", code="invalid_value")
    return strings


def _role(message: Message) -> str:
    return "system" if message.role == "developer" else message.role


def _content(message: Message) -> str:
    return message.content if isinstance(message.content, str) else "".join(part.text for part in message.content)


def _prompt(prompt: str | list[int] | list[str] | list[list[int]]) -> Prompt:
    match prompt:
        case str():
            return TextPrompt(prompt)
        case [str() as text]:
            return TextPrompt(text)
        case [list() as tokens]:
            return TokenPrompt(tuple(tokens))
        case _:
            return TokenPrompt(tuple(token for token in prompt if isinstance(token, int)))
