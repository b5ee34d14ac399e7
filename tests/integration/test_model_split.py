"""The real model in one process: however its blocks are split over engines, its answers are those of one session.

That all numbers of stages answer alike over real sockets is seen in ``test_identity.py``.
"""

import pytest
from tokenizers import Tokenizer

from shoal_protocol.limits import TOKENIZER_BYTES_MAX
from tests.support.engines import cluster
from tests.support.house import ROOT
from tests.support.unsplit import Unsplit

SMOLLM2 = "smollm2-135m-instruct"


pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def prompts(smollm2_store):
    manifest = smollm2_store.load(SMOLLM2)
    tokenizer = Tokenizer.from_buffer(smollm2_store.read(manifest.tokenizer, "tokenizer", TOKENIZER_BYTES_MAX))
    prose = tokenizer.encode((ROOT / "LICENSE").read_text()).ids
    return [prose[at : at + size] for at, size in ((100, 20), (300, 45), (600, 90), (900, 140), (1200, 200))]


@pytest.fixture(scope="module")
def expected(smollm2_store, prompts):
    unsplit = Unsplit(smollm2_store, SMOLLM2)
    answers = [unsplit.greedy(prompt, 64, stop_at_eos=False) for prompt in prompts]
    assert min(len(set(answer)) for answer in answers) > 8, "a model that repeats itself proves little"
    return answers


@pytest.mark.parametrize("stages", [*(pytest.param(few, marks=pytest.mark.long) for few in (1, 2, 3, 4)), 6])
async def test_the_real_model_answers_the_same_however_it_is_split(smollm2_store, prompts, expected, stages):
    split = await cluster(smollm2_store, SMOLLM2, stages)
    assert [await split.greedy(prompt, 64) for prompt in prompts] == expected
    for host in split.hosts:
        await host.close()
