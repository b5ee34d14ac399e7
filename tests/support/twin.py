"""An ingress without a cluster: the real light services around a model that is one table of numbers.

The twin of ``Runtime`` for tests of the API. The "model" is a fixed random matrix: the logits after a token are its
row. Everything a client can see is real (prompt layout, token ids, sampling, stop strings, log probabilities, counts),
everything between the nodes is left out.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import numpy as np

from shoal_agent.core import services
from shoal_agent.core.effects import Accept, Emit, ErrandEnded, Finish, PipelineJudged, Reject
from shoal_agent.core.events import StepAhead
from shoal_agent.core.facts import (
    ChatPrompt,
    FinishReason,
    GenerationRequest,
    Piece,
    RejectCode,
    TextPrompt,
    TokenLogprob,
    Usage,
)
from shoal_agent.core.services import CheckRequest, EmbedAnswer, EncodeRequest, Method, pack, unpack
from shoal_agent.shell.api.app import build_app
from shoal_agent.shell.api.auth import ApiKeys, hash_key
from shoal_agent.shell.api.ports import ApiPorts, Readiness, ServedModel
from shoal_agent.shell.api.server import ApiServer
from shoal_agent.shell.metrics import Metrics, Readings
from shoal_agent.shell.ports import Answer, Steps
from shoal_agent.shell.services.chat_template import ChatTemplate
from shoal_agent.shell.services.detokenizer import Detokenizer
from shoal_agent.shell.services.sampler import Sampler
from shoal_agent.shell.services.sessions import ServiceError
from shoal_agent.shell.services.tokenizer import Tokenizer
from shoal_agent.shell.sockets import listen
from shoal_protocol.ids import DeploymentId, Epoch
from tests.support.texts import EOS, MODEL, TEMPLATE, tokenizer_json, vocabulary

KEY = "sk-shoal-twin"
NAME = DeploymentId("twin")
CONTEXT = 4000
KV_BYTES_PER_TOKEN = 1536


class TwinIngress:
    """Answers requests; one token per turn of the loop."""

    async def explain(self, deployment: DeploymentId | None, epoch: Epoch | None) -> dict[str, object] | None:
        """Only epoch 3 of the twin can be explained."""
        return {"deployment": deployment, "epoch": 3} if epoch in (None, 3) else None

    def __init__(self) -> None:
        self.tokenizer = Tokenizer(tokenizer_json(), vocabulary(), None)
        self.template = ChatTemplate(TEMPLATE, self.tokenizer.markers, "<|im_start|>", "<|im_end|>")
        self.sampler = Sampler(vocabulary(), (EOS,))
        self.detokenizer = Detokenizer(self.tokenizer)
        self.logits = np.random.default_rng(5).normal(size=(vocabulary(), vocabulary())).astype(np.float32) * 2
        self.logits[:, :3] = -30.0  # no turn ends by chance
        self.open: dict[bytes, int] = {}
        self.requests: list[GenerationRequest] = []
        self.scripted: list[list[Answer]] = []
        """Answers to give instead, one list per request; the session in them does not matter."""
        self.arrived = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.metrics = Metrics(self.readings, "0.0.0")
        self.serving = True
        self.errands: list[tuple[Steps, float]] = []
        self.fault: RejectCode | None = None
        """Why no errand is done."""
        self.kinds: list[str] = []
        """The classes of errands."""
        self.asked: list[tuple[str, str, float, tuple[StepAhead, ...]]] = []
        """Runs of pipelines that asked whether they may begin."""
        self.word = PipelineJudged(1, 0.01, None, "", None)
        """What all of them are told."""
        self.ends: list[tuple[str, bool]] = []
        """Runs of pipelines that are over: class, and whether it was late."""

    def readings(self) -> Readings:
        return Readings(
            kv_bytes=sum(self.open.values()) * KV_BYTES_PER_TOKEN,
            sessions=len(self.open),
            shadows=0,
            tensors=0,
            requests=len(self.open),
            nodes=1,
            relays=0,
            brokers={"mqtt://one": True},
            ready=self.serving,
        )

    async def run(self, steps: Steps, request: bytes, deadline_s: float, kind: str = "") -> ErrandEnded:
        """Embeds a text as (its length in tokens, 0), encodes, and turns anything else around."""
        self.errands.append((steps, deadline_s))
        self.kinds.append(kind)
        if self.fault is not None:
            return ErrandEnded(1, b"", self.fault, "it is not to be")
        methods = [method for _, method in steps]
        if methods == [Method.ENCODE]:
            return ErrandEnded(1, pack(self.tokenizer.encode(unpack(EncodeRequest, request))), None, "")
        if methods[-1] != Method.EMBED:
            return ErrandEnded(1, request[::-1], None, "")
        if methods[0] == Method.ENCODE:
            tokens = self.tokenizer.encode(unpack(EncodeRequest, request)).tokens
        else:
            tokens = unpack(CheckRequest, request).tokens
        return ErrandEnded(1, pack(EmbedAnswer((float(len(tokens)), 0.0), len(tokens))), None, "")

    async def judge(self, pipeline: str, kind: str, deadline_s: float, steps: tuple[StepAhead, ...]) -> PipelineJudged:
        self.asked.append((pipeline, kind, deadline_s, steps))
        return self.word

    def ended(self, kind: str, *, late: bool) -> None:
        self.ends.append((kind, late))

    async def generate(self, request: GenerationRequest, *, lingers: bool) -> AsyncGenerator[Answer, None]:
        self.requests.append(request)
        self.arrived.set()
        over = False
        try:
            async for answer in self._scripted() if self.scripted else self._answers(request):
                await asyncio.sleep(0)
                over = isinstance(answer, Finish | Reject)
                yield answer
                if over:
                    return
        finally:
            self.open.pop(request.session, None)
            self.sampler.close(request.session)
            self.detokenizer.close(request.session)
            if not over:
                self.metrics.count("requests_finished", FinishReason.CANCELLED.value)
                self.cancelled.set()

    async def _scripted(self) -> AsyncGenerator[Answer, None]:
        for answer in self.scripted.pop(0):
            yield answer
        await asyncio.Event().wait()

    async def _answers(self, request: GenerationRequest) -> AsyncGenerator[Answer, None]:
        try:
            tokens = self._tokens(request)
        except ServiceError as fault:
            yield Reject(request.session, RejectCode.BAD_PROMPT, str(fault), None)
            return
        if len(tokens) + (request.tokens_max or 1) > CONTEXT:
            detail = f"{len(tokens)} prompt tokens exceed the context of {CONTEXT} tokens"
            yield Reject(request.session, RejectCode.CONTEXT_EXCEEDED, detail, None)
            return
        self.open[request.session] = len(tokens)
        yield Accept(request.session, len(tokens))
        async for answer in self._stream(request, list(tokens)):
            yield answer

    def _tokens(self, request: GenerationRequest) -> tuple[int, ...]:
        match request.prompt:
            case ChatPrompt(body):
                text = self.template.render(unpack(services.RenderRequest, body)).text
                return self.tokenizer.encode(services.EncodeRequest(text, special=True)).tokens
            case TextPrompt(text):
                return self.tokenizer.encode(services.EncodeRequest(text, special=False)).tokens
            case prompt:
                return self.tokenizer.check(services.CheckRequest(prompt.tokens)).tokens

    async def _stream(self, request: GenerationRequest, tokens: list[int]) -> AsyncGenerator[Answer, None]:
        session = request.session
        wants_logprobs = request.sampling.top_logprobs >= 0
        self.sampler.open(services.OpenSamplerRequest(session, tuple(tokens), request.sampling))
        self.detokenizer.open(services.OpenDetokenizerRequest(session, request.stop, wants_logprobs))
        prompt_tokens = len(tokens)
        tokens_max = CONTEXT if request.tokens_max is None else prompt_tokens + request.tokens_max
        reason = FinishReason.LENGTH
        while len(tokens) < tokens_max:
            drawn = self.sampler.sample(services.SampleRequest(session, len(tokens)), self.logits[tokens[-1]])
            rivals = tuple(token for token, _ in drawn.top)
            shown = self.detokenizer.push(services.PushRequest(session, drawn.token, rivals))
            tokens.append(drawn.token)
            top = tuple((token, raw, value) for (token, value), raw in zip(drawn.top, shown.top_bytes, strict=True))
            logprob = TokenLogprob(drawn.token, shown.token_bytes, drawn.logprob, top) if wants_logprobs else None
            yield Emit(session, Piece(drawn.token, shown.text, logprob))
            if shown.stopped:
                reason = FinishReason.STOP
                break
        tail = self.detokenizer.flush(services.FlushRequest(session)).text
        self.metrics.count("requests_finished", reason.value)
        yield Finish(session, reason, tail, Usage(prompt_tokens, len(tokens) - prompt_tokens), "")


def twin_ports(ingress: TwinIngress) -> ApiPorts:
    """The API over ``ingress``."""
    served = ServedModel(NAME, MODEL, Epoch(0), CONTEXT, 1_700_000_000)
    return ApiPorts(
        ingress=ingress,
        models=lambda: (served,),
        ready=lambda: Readiness(ingress.serving, () if ingress.serving else ("twin: stage 0 is loading",)),
        state=lambda: {"node": "twin", "requests": len(ingress.requests)},
        explain=ingress.explain,
        metrics=ingress.metrics,
        keys=ApiKeys([hash_key(KEY)]),
    )


@contextmanager
def twin_server() -> Iterator[str]:
    """A whole API server in a thread of its own, on a free port; yields its URL."""
    listener = listen("127.0.0.1", 0)
    url = "http://{}:{}".format(*listener.getsockname()[:2])
    servers: list[ApiServer] = []
    begun = threading.Event()

    async def serve() -> None:
        servers.append(ApiServer(build_app(twin_ports(TwinIngress())), listener))
        begun.set()
        await servers[0].run()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="twin")
    thread.start()
    assert begun.wait(10)
    try:
        yield url
    finally:
        servers[0].stop()
        thread.join(10)
        assert not thread.is_alive()
