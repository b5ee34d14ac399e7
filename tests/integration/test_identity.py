"""However many stages the model is cut into, over real processes and real sockets: the same tokens, one by one.

All questions are asked at once, so that stages take turns between them.
The reference is the unsplit model: all blocks in one graph, one plain onnxruntime session, nothing of the engine.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import demo
from tests.support.unsplit import Unsplit

pytestmark = pytest.mark.model

QUESTIONS = {
    20: "The capital of France is a city on the river Seine, and its name is",
    50: "Once upon a time there was a small fish that lived alone in a deep lake. ",
    90: "Write down, in order, the steps for making a cup of tea. First, boil the water. ",
    140: "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n\n",
    200: "In 1789, 1848 and 1989 people in Europe asked for other governments: ÄÖÜ, café, naïve, 漢字. ",
}
STAGES = (1, 2, 3, 4, 6)
TOKENS = 64


@pytest.fixture(scope="module")
def prompts(smollm2_store):
    """Five prompts of 20 to 200 tokens: each text repeated and cut to its length."""
    tokenizers = pytest.importorskip("tokenizers")
    manifest = smollm2_store.load(demo.MODEL)
    raw = smollm2_store.read(manifest.tokenizer, "tokenizer", manifest.tokenizer.bytes)
    tokenizer = tokenizers.Tokenizer.from_str(raw.decode())
    return [tokenizer.encode(text * 20, add_special_tokens=False).ids[:length] for length, text in QUESTIONS.items()]


@pytest.fixture(scope="module")
def expected(smollm2_store, prompts):
    whole = Unsplit(smollm2_store, demo.MODEL)
    return [whole.greedy(prompt, TOKENS) for prompt in prompts]


def test_the_prompts_are_as_long_as_they_say(prompts):
    assert [len(prompt) for prompt in prompts] == list(QUESTIONS)


@pytest.mark.parametrize("stages", STAGES)
def test_tokens_equal_the_unsplit_models(stages, prompts, expected):
    with demo.running("--nodes", str(stages)) as cluster:
        assert len(cluster.printed["plan"]) == stages
        asked = [(prompt, cluster.api) for prompt in prompts]
        asked.append((prompts[0], cluster.printed["agents"][-1]["api"]))
        with ThreadPoolExecutor(len(asked)) as threads:
            *answers, from_another_ingress = threads.map(lambda each: cluster.greedy(each[0], TOKENS, each[1]), asked)
    assert answers == expected
    assert from_another_ingress == expected[0]
    assert max(len(tokens) for tokens in expected) == TOKENS
