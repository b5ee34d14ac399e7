"""Pipelines on two real agents: branches side by side, two classes at once, a step that fails, a model among them.

One agent has two services that a package brings, found by their entry points: they sleep as long as they are asked to,
and say from when to when. Clients ask the other agent.
"""

import asyncio
import base64
import json
import os
import re
from pathlib import Path

import pytest
import pytest_asyncio

from shoal_agent.shell.lab import LabSettings
from shoal_agent.shell.operator import DeployWish
from tests.support.broker import needs_mosquitto
from tests.support.processes import processes
from tests.support.repair import MEMORY_BYTES, MODEL, SETTLED_S_MAX, settled

pytestmark = [needs_mosquitto, pytest.mark.asyncio(loop_scope="module")]

ROOM = "/shoal/v1/pipelines"
SLEEP_S = 0.4
LOAD = 8
"""Runs that make the sleepers a queue of more than a second, with as many instances as two processors allow."""
PACKAGE = """
import json, pathlib, time

class Sleeper:
    methods = ("sleep", "refuse")

    def __init__(self, name):
        self.name = name

    def build(self):
        return answer

def answer(method, request):
    if method == "refuse":
        raise ValueError("not today")
    with pathlib.Path(__file__).with_name("slept").open("a") as told:
        print(request.decode(), file=told)
    begun = time.monotonic()
    time.sleep(float(request))
    return json.dumps([begun, time.monotonic()]).encode()

def left():
    return Sleeper("sleeper:left")

def right():
    return Sleeper("sleeper:right")
"""
ENTRY_POINTS = """
[shoal.services]
left = sleepers:left
right = sleepers:right
"""
STEP = '[[steps]]\nname = "{}"\nservice = "{}"\n{}\ninputs = ["{}"]\n'
OF_MODEL = f'model = "{MODEL}"'
BOTH = '[[steps]]\nname = "both"\nservice = "join"\ninputs = ["left", "right"]\n'
PIPELINES = {
    "pair": 'output = "both"\nclass = "calm"\n'
    + STEP.format("left", "sleeper:left", 'method = "sleep"', "request")
    + STEP.format("right", "sleeper:right", 'method = "sleep"', "request")
    + BOTH,
    "broken": 'output = "both"\n'
    + STEP.format("left", "sleeper:left", 'method = "refuse"', "request")
    + STEP.format("right", "sleeper:right", 'method = "sleep"', "request")
    + BOTH,
    "index": 'output = "both"\n'
    + STEP.format("left", "generate", f"{OF_MODEL}\nchat = false\ntokens_max = 4", "request.text")
    + STEP.format("tokens", "tokenizer", f'{OF_MODEL}\nmethod = "encode"', "request.text")
    + STEP.format("right", "embedder", f'{OF_MODEL}\nmethod = "embed"', "tokens")
    + BOTH,
}
CLASSES = """
[[classes]]
name = "quick"
deadline_ms = 150.0
epsilon = 0.1
[[classes]]
name = "brisk"
deadline_ms = 1000.0
epsilon = 0.1
[[classes]]
name = "calm"
deadline_ms = 20000.0
epsilon = 0.1
[pipelines]
folder = "pipelines"
"""


def write_package(folder: Path) -> None:
    """Where an agent that has ``folder`` on its path finds two services."""
    (folder / "sleepers-1.0.dist-info").mkdir(parents=True)
    (folder / "sleepers-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: sleepers\nVersion: 1.0\n")
    (folder / "sleepers-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "sleepers.py").write_text(PACKAGE)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tiny_store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    write_package(folder / "site")
    lab = LabSettings(folder / "lab", 2, tiny_store.root, (), memory_bytes=MEMORY_BYTES)
    async with processes(lab, brokers=1) as running:
        for agent in running.agents:
            (agent.lab.folder / "pipelines").mkdir()
            for name, text in PIPELINES.items():
                (agent.lab.folder / "pipelines" / f"{name}.toml").write_text(f'name = "{name}"\n{text}')
            agent.lab.config.write_text(agent.lab.config.read_text() + CLASSES)
        ingress, sleeper = running.agents
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(folder / "site"), prepend=os.pathsep)
            await sleeper.start()
        await running.start(ingress)
        await running.until(lambda view: len(view.alive) == len(running.agents), [ingress], SETTLED_S_MAX)
        yield running


def spans(answer):
    """From when to when each sleeper slept."""
    assert answer.status_code == 200, answer.text
    left, right = (json.loads(base64.b64decode(answer.json()[name]["base64"])) for name in ("left", "right"))
    return left, right


async def level(pair, kind):
    text = (await pair.client.get(f"{pair.agents[0].api}/metrics")).text
    return float(re.findall(rf'^shoal_class_level{{class="{kind}"}} (\S+)$', text, re.MULTILINE)[0])


async def test_two_classes_at_once_each_with_its_own_deadline(pair):
    """Nothing was measured yet, so the quick one is let in, and late."""
    url, before = f"{pair.agents[0].api}{ROOM}/pair", await level(pair, "quick")
    quick, calm = await asyncio.gather(
        pair.client.post(url, content=str(SLEEP_S), headers={"X-Shoal-Class": "quick"}),
        pair.client.post(url, content=str(SLEEP_S)),
    )
    assert quick.status_code == 504
    assert quick.json()["error"]["code"] == "deadline_exceeded"
    spans(calm)
    assert await level(pair, "quick") == pytest.approx(before + 0.9)
    assert await level(pair, "calm") == 0.0


async def test_branches_run_side_by_side(pair):
    api = pair.agents[0].api
    left, right = spans(await pair.client.post(f"{api}{ROOM}/pair", content=str(SLEEP_S)))
    assert left[0] < right[1]
    assert right[0] < left[1]


async def test_who_cannot_be_in_time_is_refused_at_the_door_and_who_has_longer_comes_in(pair, tmp_path_factory):
    url, brisk = f"{pair.agents[0].api}{ROOM}/pair", {"X-Shoal-Class": "brisk"}
    load = [asyncio.create_task(pair.client.post(url, content=str(SLEEP_S))) for _ in range(LOAD)]
    await asyncio.wait(load, return_when=asyncio.FIRST_COMPLETED)
    before = await level(pair, "brisk")
    late = asyncio.create_task(pair.client.post(url, content="0.101", headers={"X-Shoal-Class": "calm"}))
    refused = await pair.client.post(url, content="0.102", headers=brisk)
    assert not all(task.done() for task in load), "it was not the queue that it waited for"
    assert refused.status_code == 429, refused.text
    assert int(refused.headers["Retry-After"]) >= 1
    assert re.fullmatch(r"it would take \d+ ms, and has \d+ ms", refused.json()["error"]["message"])
    for answer in [await late, *await asyncio.gather(*load)]:
        spans(answer)
    slept = next(iter(tmp_path_factory.getbasetemp().glob("pipelines*/site/slept"))).read_text().split()
    assert slept.count("0.101") == 2
    assert slept.count("0.102") == 0
    assert await level(pair, "brisk") == pytest.approx(before + 0.9)
    assert await level(pair, "calm") == 0.0
    metrics = (await pair.client.get(f"{pair.agents[0].api}/metrics")).text
    assert 'shoal_pipelines_judged_total{word="late"} 1.0' in metrics
    assert 'shoal_pipeline_forecast_seconds_count{pipeline="pair"}' in metrics
    assert (await pair.client.post(url, content="0.103", headers=brisk)).status_code == 200, "the queue is gone"


async def test_a_step_that_fails_is_named(pair):
    answer = await pair.client.post(f"{pair.agents[0].api}{ROOM}/broken", content=str(SLEEP_S))
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "step 'left' (sleeper:left.refuse): not today"


async def test_a_generation_beside_light_services_through_any_node(pair):
    await pair.deploy(DeployWish(MODEL, stages=1, nodes=tuple(agent.node for agent in pair.agents)))
    await settled(pair, pair.agents)
    for agent in pair.agents:
        answer = await pair.client.post(f"{agent.api}{ROOM}/index", json={"text": "a shoal has no leader"})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert isinstance(told["left"], str)
        assert sum(value**2 for value in told["right"]["vector"]) == pytest.approx(1.0, abs=1e-3)
