"""Real agents under load: answers without some blocks, of a class that tolerates it; the whole model before and after.

Of the tiny model a shortcut is written into the manifest by hand, for it needs each of its layers; the real one has
those that were measured when it was imported. Every answer is compared with one graph of the same blocks, run by one
plain session. `pytest -rP tests/fault/test_shortening.py` prints what was measured.
"""

import asyncio
import re
from collections import Counter
from dataclasses import dataclass, field

import pytest
from tokenizers import Tokenizer

from shoal_agent.core.service_classes import LEVEL_TOKENS
from shoal_agent.shell.lab import LabSettings
from shoal_agent.shell.operator import DeployWish
from shoal_models.importing import import_gguf
from shoal_models.manifest import Shortcut
from shoal_models.package import Store
from shoal_models.ports import no_progress
from shoal_protocol.limits import TOKENIZER_BYTES_MAX
from tests.support import demo
from tests.support.processes import Agent, Processes, processes
from tests.support.repair import MEMORY_BYTES, begin, kill, tell
from tests.support.unsplit import Unsplit

pytestmark = pytest.mark.long

AGENTS = 5
AT_ONCE = 6
TEXTS = ("the quick brown fox", "what is the capital of france", "a shoal has no leader")
CALM_TURNS = 40
"""In so many answers of the whole model everything that may be owed is paid back."""
STRICT = "strict"
LOOSE = "loose"


@dataclass
class Asked:
    """What clients of one cluster asked and were told."""

    cluster: Processes
    agent: Agent
    store: Store
    tokens: int
    told: list[tuple[str, str, int]] = field(default_factory=list)
    """Class, what was left out, tokens."""

    def __post_init__(self) -> None:
        model = self.cluster.model
        text = self.store.read(self.store.load(model).tokenizer, "tokenizer", TOKENIZER_BYTES_MAX)
        self._tokenizer = Tokenizer.from_str(text.decode())
        self._wanted: dict[tuple[str, str], list[int]] = {}

    def wanted(self, text: str, left_out: str) -> list[int]:
        """The answer of one graph without these blocks."""
        if (text, left_out) not in self._wanted:
            first, last = map(int, left_out.split("-")) if left_out else (0, -1)
            graph = Unsplit(self.store, self.cluster.model, range(first, last + 1))
            ids = self._tokenizer.encode(text, add_special_tokens=False).ids
            self._wanted[text, left_out] = graph.greedy(ids, self.tokens)
        return self._wanted[text, left_out]

    async def one(self, text: str, kind: str) -> str:
        """Ask; what was left out."""
        body = {
            "model": self.cluster.model,
            "prompt": text,
            "max_tokens": self.tokens,
            "temperature": 0,
            "return_token_ids": True,
        }
        url = f"{self.agent.api}/v1/completions"
        answer = await self.cluster.client.post(url, json=body, headers={"X-Shoal-Class": kind}, timeout=120)
        assert answer.status_code == 200, answer.text
        left_out = answer.headers.get("x-shoal-left-out", "")
        found = answer.json()["choices"][0]["token_ids"]
        assert found == self.wanted(text, left_out), f"{kind}: {left_out or 'whole'}"
        self.told.append((kind, left_out, len(found)))
        return left_out

    async def together(self, rounds: int) -> None:
        """So many of both classes at once, again and again."""

        async def client(number: int) -> None:
            for turn in range(rounds):
                await self.one(TEXTS[(number + turn) % len(TEXTS)], LOOSE if number else STRICT)

        await asyncio.gather(*(client(number) for number in range(AT_ONCE)))

    def lost(self) -> tuple[float, int]:
        """Micronats that the answers of the loose class lost, and their tokens."""
        losses = {
            f"{each.first_block}-{each.last_block}": each.loss_micronats
            for each in self.store.load(self.cluster.model).shortcuts
        }
        loose = [(left_out, count) for kind, left_out, count in self.told if kind == LOOSE]
        return sum(losses.get(left_out, 0) * count for left_out, count in loose), sum(count for _, count in loose)


async def metric(cluster: Processes, agent: Agent, pattern: str) -> float:
    text = (await cluster.client.get(f"{agent.api}/metrics")).text
    return float(re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE)[0])


def allow(cluster: Processes, loss_micronats: float) -> None:
    """Both classes, in every agent's configuration."""
    classes = (
        f'[[classes]]\nname = "{LOOSE}"\ndeadline_ms = 60000\nepsilon = 0.1\nloss_micronats = {loss_micronats}\n'
        f'[[classes]]\nname = "{STRICT}"\ndeadline_ms = 60000\nepsilon = 0.1\n'
    )
    for agent in cluster.agents:
        with agent.lab.config.open("a", encoding="utf-8") as config:
            config.write(classes)


def shortened(gguf, root, measurement) -> Store:
    """A store with the tiny model, and a certificate that it may do without its second and third layer."""
    store = Store(root)
    manifest = import_gguf(gguf, store, "tiny", "int8", "Apache-2.0", measurement, no_progress)
    certified = Shortcut(
        first_block=2, last_block=3, loss_micronats=300_000, agreement_permille=700, saved_permille=400
    )
    with store.exclusive():
        store.publish(manifest.model_copy(update={"shortcuts": (certified,)}))
    return store


async def explained(cluster: Processes, agent: Agent) -> list[str]:
    answer = await cluster.client.get(f"{agent.api}/shoal/v1/explain", params={"deployment": cluster.model})
    return [line["text"] for line in answer.json()["story"] if "class loose" in line["text"]]


async def played(cluster: Processes, store: Store, *, tolerated: float, tokens: int, rounds: int) -> None:
    """Alone, together, alone again."""
    asked = Asked(cluster, cluster.agents[-1], store, tokens)
    for text in TEXTS:
        assert await asked.one(text, LOOSE) == "", "nobody presses"
    await asked.together(rounds)
    options = Counter((kind, left_out or "whole") for kind, left_out, _ in asked.told)
    lost, drawn = asked.lost()
    owed = await metric(cluster, asked.agent, f'shoal_class_loss_level{{class="{LOOSE}"}}')
    tell(f"{dict(options)}; {lost / drawn:.0f} micronats a token over {drawn} tokens, {tolerated:.0f} tolerated")
    tell(f"A {owed:.3f}")
    assert options[STRICT, "whole"] == rounds
    assert sum(count for (kind, left_out), count in options.items() if kind == LOOSE and left_out != "whole") > 0
    assert lost <= tolerated * (drawn + owed * LEVEL_TOKENS) + 1
    turns = 0
    while await metric(cluster, asked.agent, f'shoal_class_loss_level{{class="{LOOSE}"}}') > 0 and turns < CALM_TURNS:
        assert await asked.one(TEXTS[turns % len(TEXTS)], LOOSE) == "", "the load is gone"
        turns += 1
    lost, drawn = asked.lost()
    tell(f"{turns} answers later: {lost / drawn:.0f} micronats a token over {drawn} tokens")
    assert lost <= tolerated * drawn, "on average it is what is tolerated"
    told = await explained(cluster, asked.agent)
    tell("\n".join(told))
    assert any("without blocks" in text for text in told)


async def test_a_class_that_tolerates_loss_is_answered_without_blocks_while_others_press(
    tiny_gguf, tmp_path, measurement
):
    store = shortened(tiny_gguf, tmp_path / "store", measurement)
    lab = LabSettings(tmp_path / "lab", AGENTS, store.root, (), memory_bytes=MEMORY_BYTES)
    async with processes(lab) as cluster:
        allow(cluster, 200_000.0)
        await begin(cluster, cluster.agents, DeployWish("tiny", stages=2, sessions=8))
        await played(cluster, store, tolerated=200_000.0, tokens=200, rounds=12)
        await struck(cluster, store)


async def struck(cluster: Processes, store: Store) -> None:
    """A host dies in the middle of answers of both kinds: each is what it would have been."""
    asked = Asked(cluster, cluster.agents[-1], store, 400)
    view = await cluster.view(asked.agent)
    victim = next(cluster.agent(node) for node in view.hosts if node != asked.agent.node)
    load = asyncio.create_task(asked.together(2))
    await asyncio.sleep(0.5)
    kill(victim)()
    await load
    assert {left_out for kind, left_out, _ in asked.told if kind == LOOSE} >= {"2-3"}
    tell(f"through a killed host: {Counter(left_out or 'whole' for _, left_out, _ in asked.told)}")


@pytest.mark.model
async def test_the_real_model_is_shortened_as_its_package_certifies(smollm2_store, tmp_path):
    lab = LabSettings(tmp_path / "lab", 3, smollm2_store.root, (), memory_bytes=MEMORY_BYTES)
    async with processes(lab, model=demo.MODEL) as cluster:
        allow(cluster, 300_000.0)
        await begin(cluster, cluster.agents, DeployWish(demo.MODEL, stages=2, sessions=8, context_tokens=512))
        await played(cluster, smollm2_store, tolerated=300_000.0, tokens=64, rounds=3)
