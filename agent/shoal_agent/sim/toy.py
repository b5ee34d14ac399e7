"""A toy model and its light services, for worlds without an engine.

The model is integer arithmetic whose every output depends on every earlier position and on every block in order, so a
lost, repeated or misplaced activation changes the tokens; a split that is right gives exactly the tokens of the unsplit
run (``toy_tokens``). The services keep the contract of the real ones: a session that is not open is refused, and the
sampler, opened with a history, draws for any position after it, again too, but never for one within.
"""

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final

from shoal_agent.core import services
from shoal_agent.core.facts import BlockFacts, ModelFacts
from shoal_agent.core.services import Method, ServiceKind
from shoal_protocol.headers import Sampling
from shoal_protocol.ids import SessionId, digest_of

MODEL: Final = digest_of(b"toy model")
EOS: Final = 256
VOCABULARY: Final = 257
REFERENCE_MACS_PER_S: Final = 10**9
MODULUS: Final = (1 << 61) - 1
GREEDY: Final = Sampling(0.0, 0, 1.0, 1.0, 0, -1)
NAMES: Final = tuple(services.service_name(kind, MODEL) for kind in ServiceKind if kind is not ServiceKind.EMBEDDER)


def toy_facts(blocks: int = 8, context: int = 512, kv: int = 64) -> ModelFacts:
    """A model of ``blocks`` equal blocks."""
    block = BlockFacts(1000, kv, 100, 1000, 8)
    return ModelFacts(MODEL, "toy", (block,) * blocks, REFERENCE_MACS_PER_S, context)


def toy_blocks(hidden: int, first: int, last: int, memory: dict[int, int], left_out: Container[int] = ()) -> int:
    """One position through blocks first..last; ``memory`` is the KV: one running sum per block."""
    for block in range(first, last + 1):
        if block in left_out:
            continue
        hidden = (hidden * 6364136223846793005 + block + 1) % MODULUS
        memory[block] = (memory.get(block, 0) + hidden) % MODULUS
        hidden = (hidden + memory[block]) % MODULUS
    return hidden


def toy_tokens(prompt: tuple[int, ...], blocks: int, count: int, left_out: Container[int] = ()) -> list[int]:
    """What the unsplit toy model answers, without the end marker."""
    memory: dict[int, int] = {}
    hidden = 0
    for token in prompt:
        hidden = toy_blocks(token, 0, blocks - 1, memory, left_out)
    answer: list[int] = []
    while len(answer) < count and (token := hidden % VOCABULARY) != EOS:
        answer.append(token)
        hidden = toy_blocks(token, 0, blocks - 1, memory, left_out)
    return answer


@dataclass
class _Text:
    stop: tuple[str, ...]
    held: str = ""
    stopped: bool = False


@dataclass
class ToyServices:
    """All light services of one node; a token's text is the character of its number."""

    drawing: dict[SessionId, tuple[int, Sampling]] = field(default_factory=dict)
    """The sampler's sessions: how many tokens each was opened with, how it draws."""
    texts: dict[SessionId, _Text] = field(default_factory=dict)

    def close(self, service: str, session: SessionId) -> None:
        """The session is over; closing what is not open is harmless."""
        if service.startswith(ServiceKind.SAMPLER):
            self.drawing.pop(session, None)
        else:
            assert service.startswith(ServiceKind.DETOKENIZER), f"{service} keeps no sessions"
            self.texts.pop(session, None)

    def serve(self, service: str, method: str, request: bytes, hidden: int | None) -> services.ServiceMessage:
        """The answer; ValueError is a refusal."""
        match service.partition(":")[0], method:
            case ServiceKind.CHAT_TEMPLATE, Method.RENDER:
                asked = services.unpack(services.RenderRequest, request)
                return services.RenderAnswer("".join(message.content for message in asked.messages))
            case ServiceKind.TOKENIZER, Method.ENCODE:
                return services.EncodeAnswer(tuple(services.unpack(services.EncodeRequest, request).text.encode()))
            case ServiceKind.TOKENIZER, Method.CHECK:
                tokens = services.unpack(services.CheckRequest, request).tokens
                if any(token >= VOCABULARY for token in tokens):
                    raise ValueError("a token is outside the vocabulary")
                return services.EncodeAnswer(tokens)
            case ServiceKind.SAMPLER, Method.OPEN:
                opened = services.unpack(services.OpenSamplerRequest, request)
                self.drawing[opened.session] = (len(opened.tokens), opened.sampling)
                return services.Done()
            case ServiceKind.SAMPLER, Method.SAMPLE:
                return self._sample(services.unpack(services.SampleRequest, request), hidden)
            case ServiceKind.DETOKENIZER, _:
                return self._text(method, request)
        raise ValueError(f"no method {method} of {service}")

    def _sample(self, asked: services.SampleRequest, hidden: int | None) -> services.SampleAnswer:
        assert hidden is not None, "to sample takes logits"
        history, sampling = self.drawing[asked.session]
        assert asked.position >= history, "the sampler is not asked for what it was told"
        token = hidden % VOCABULARY
        wanted = max(0, sampling.top_logprobs)
        top = tuple(((token + rival) % VOCABULARY, -1.0 - rival) for rival in range(wanted))
        return services.SampleAnswer(token, token == EOS, -1.0 if sampling.top_logprobs >= 0 else 0.0, top)

    def _text(self, method: str, request: bytes) -> services.ServiceMessage:
        if method == Method.OPEN:
            opened = services.unpack(services.OpenDetokenizerRequest, request)
            self.texts[opened.session] = _Text(opened.stop)
            return services.Done()
        if method == Method.FLUSH:
            text = self.texts.pop(services.unpack(services.FlushRequest, request).session, None)
            if text is None:
                raise ValueError("no such session is open")
            return services.FlushAnswer(text.held)
        pushed = services.unpack(services.PushRequest, request)
        pushed_text = self.texts.get(pushed.session)
        if pushed_text is None:
            raise ValueError("no such session is open")
        top_bytes = tuple(chr(rival).encode() for rival in pushed.top)
        shown = _push(pushed_text, chr(pushed.token))
        return services.PushAnswer(shown, pushed_text.stopped, chr(pushed.token).encode(), top_bytes)


def _push(text: _Text, fresh: str) -> str:
    """What may be shown once ``fresh`` is added: all but what may still become a stop string."""
    whole = text.held + fresh
    for stop in text.stop:
        if stop in whole:
            text.stopped = True
            return whole[: whole.index(stop)]
    wait = max(
        (size for stop in text.stop for size in range(1, len(stop)) if whole.endswith(stop[:size])),
        default=0,
    )
    text.held = whole[len(whole) - wait :]
    return whole[: len(whole) - wait]
