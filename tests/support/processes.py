"""Real agents over real brokers, each a process that a test may kill, freeze, start again and wall off.

Ports are fixed before anything starts, so that an agent keeps its address through all its lives. With a wall, every
connection goes through a relay: an agent advertises a loopback address of its own (127.1.0.i) where a relay listens on
the same port, and names each broker by an address that only this agent uses (127.2.b.i). Who dialled an agent's relay
is told by the process that holds the source port.

The speed of each device is written down beforehand, as its first life would have: no test waits for a measurement, and
plans do not depend on who else uses the machine.
"""

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from shoal_agent.config import load_operator_config
from shoal_agent.shell.agent import SPEED_RECORD
from shoal_agent.shell.broker import BrokerKind, RunningBroker, embedded_broker
from shoal_agent.shell.clock import unix_s
from shoal_agent.shell.lab import Lab, LabNode, LabSettings, Running, make_lab, start_agent, stop_agents
from shoal_agent.shell.operator import DeployResult, DeployWish, deploy
from shoal_agent.shell.store import StateDir
from shoal_protocol.ids import NodeId
from tests.support.ports import fixed_ports
from tests.support.wall import Relay, Wall, Way

SPEED_MACS_PER_S: Final = 10_000_000_000
UP_S_MAX: Final = 60.0
ANSWER_S_MAX: Final = 20.0
POLL_S: Final = 0.05


@dataclass
class Broker:
    """A mosquitto on a port of its own, which it keeps."""

    name: str
    folder: Path
    port: int
    process: RunningBroker | None = None
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self.process = await self._stack.enter_async_context(
            embedded_broker(self.folder, BrokerKind.MOSQUITTO, self.port)
        )

    async def stop(self) -> None:
        """Whatever state it is in."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
        await self._stack.aclose()
        self.process = None

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.stop()

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None:
            os.kill(self.process.pid, number)


@dataclass(eq=False)
class Agent:
    """One device. ``process`` None: it does not run."""

    name: str
    lab: LabNode
    api: str
    port: int
    process: Running | None = None

    @property
    def node(self) -> NodeId:
        return self.lab.node

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} does not run"
        return self.process.pid

    async def start(self) -> None:
        self.process = await start_agent(self.lab)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.stop()

    async def stop(self) -> None:
        """Politely; a frozen one is woken for it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
            await stop_agents([self.process])
        self.process = None

    def holds(self, port: int) -> bool:
        """Whether the connection from ``port`` is this agent's."""
        if self.process is None:
            return False
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(self.pid).net_connections("tcp")
            return any(each.laddr.port == port and each.raddr for each in found)
        return False


@dataclass(frozen=True)
class View:
    """What one agent believes, as its API tells."""

    state: dict[str, Any]

    @property
    def newest(self) -> dict[str, Any] | None:
        """The newest epoch of the one deployment."""
        return max(self.state["deployments"], key=lambda each: int(each["epoch"]), default=None)

    @property
    def epoch(self) -> int:
        """The newest certified one; -1: none."""
        return -1 if self.newest is None else int(self.newest["epoch"])

    @property
    def hosts(self) -> tuple[NodeId, ...]:
        """Of the newest epoch, in order."""
        return () if self.newest is None else tuple(stage["node"] for stage in self.newest["stages"])

    @property
    def active(self) -> bool:
        """Every host of the newest epoch said so."""
        return self.newest is not None and all(stage["phase"] == "ACTIVE" for stage in self.newest["stages"])

    @property
    def alive(self) -> frozenset[NodeId]:
        return frozenset(each["node"] for each in self.state["nodes"] if each["alive"])

    @property
    def held(self) -> tuple[tuple[int, int, int], ...]:
        """(epoch, first block, last block) of what this node says it holds itself."""
        (mine,) = [each for each in self.state["nodes"] if each["node"] == self.state["node"]]
        return tuple((each["epoch"], each["first_block"], each["last_block"]) for each in mine["hosted"])

    @property
    def detours(self) -> int:
        """Links that go through the brokers."""
        return sum(each["link"]["relayed"] for each in self.state["nodes"])

    @property
    def brokers_up(self) -> int:
        return sum(each["up"] for each in self.state["brokers"])


@dataclass
class Processes:
    """A cluster. ``agents`` includes those that were never started."""

    lab: Lab
    agents: tuple[Agent, ...]
    brokers: tuple[Broker, ...]
    wall: Wall
    client: httpx.AsyncClient
    model: str

    def agent(self, node: str) -> Agent:
        (found,) = [agent for agent in self.agents if agent.node == node]
        return found

    async def start(self, *agents: Agent) -> None:
        """Start them, and return when their APIs answer."""
        await asyncio.gather(*(agent.start() for agent in agents))
        await asyncio.gather(*(self._up(agent) for agent in agents))

    async def _up(self, agent: Agent) -> None:
        async with asyncio.timeout(UP_S_MAX):
            while True:
                assert agent.process is not None
                assert agent.process.process.returncode is None, agent.lab.log.read_text()[-2000:]
                with contextlib.suppress(httpx.TransportError):
                    if (await self.client.get(f"{agent.api}/healthz")).status_code == httpx.codes.OK:
                        return
                await asyncio.sleep(POLL_S)

    async def deploy(self, wish: DeployWish) -> DeployResult:
        """As `shoal deploy` does."""
        told: list[str] = []
        return await deploy(load_operator_config(self.lab.operator_config, environment={}), wish, told.append)

    async def view(self, agent: Agent) -> View:
        answer = await self.client.get(f"{agent.api}/shoal/v1/state")
        assert answer.status_code == httpx.codes.OK, answer.text
        return View(answer.json())

    async def views(self, *agents: Agent) -> list[View]:
        return list(await asyncio.gather(*(self.view(agent) for agent in agents)))

    async def until(self, wanted: Callable[[View], bool], agents: Sequence[Agent], within_s: float) -> float:
        """Return when all of ``agents`` believe what is ``wanted``; the seconds it took."""
        begun = asyncio.get_running_loop().time()
        views: list[View] = []
        try:
            async with asyncio.timeout(within_s):
                while not views or not all(map(wanted, views)):
                    views = await self.views(*agents)
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            told = "\n".join(f"{agent.name} {describe(view)}" for agent, view in zip(agents, views, strict=False))
            raise AssertionError(f"not within {within_s:g} s:\n{told}") from None
        return asyncio.get_running_loop().time() - begun

    async def ask(self, agent: Agent, count: int = 8, prompt: Sequence[int] = (5, 6, 7)) -> list[int]:
        """The ids of ``count`` greedy tokens."""
        answer = await self.request(agent, count, prompt)
        assert answer.status_code == httpx.codes.OK, answer.text
        return list(answer.json()["choices"][0]["token_ids"])

    async def request(self, agent: Agent, count: int = 8, prompt: Sequence[int] = (5, 6, 7)) -> httpx.Response:
        body = {
            "model": self.model,
            "prompt": list(prompt),
            "max_tokens": count,
            "temperature": 0,
            "return_token_ids": True,
        }
        return await self.client.post(f"{agent.api}/v1/completions", json=body)


def describe(view: View) -> str:
    """A line for a test that failed."""
    newest = view.newest
    stages = [] if newest is None else [f"{each['node'][:6]} {each['phase']}" for each in newest["stages"]]
    return f"epoch {view.epoch} {stages}, alive {sorted(node[:6] for node in view.alive)}, brokers {view.brokers_up}"


@contextlib.asynccontextmanager
async def processes(
    settings: LabSettings,
    *,
    brokers: int = 2,
    walled: bool = False,
    memory_bytes: Sequence[int] = (),
    speed_macs_per_s: Sequence[int] = (),
    model: str = "tiny",
    own_stores: Sequence[int] = (),
) -> AsyncIterator[Processes]:
    """Brokers that run and agents that do not yet. Memory and speed of agent i, where given, are its own.

    ``own_stores``: the agents that begin with an empty store of their own.
    """
    wall = Wall()
    async with contextlib.AsyncExitStack() as stack:
        ports = fixed_ports(brokers + 2 * settings.nodes)
        made = [Broker(f"b{i + 1}", settings.folder / f"broker-{i + 1}", ports.pop()) for i in range(brokers)]
        for broker in made:
            stack.push_async_callback(broker.stop)
            await broker.start()
        lab = make_lab(replace(settings, broker_urls=tuple(broker.url for broker in made)), unix_s())
        agents = [
            _prepare(lab, index, (ports.pop(), ports.pop()), made if walled else ()) for index in range(len(lab.nodes))
        ]
        for index, agent in enumerate(agents):
            if index < len(memory_bytes):
                _rewrite(agent, r"^memory_bytes_max = .*$", f"memory_bytes_max = {memory_bytes[index]}")
            if index in own_stores:
                _rewrite(agent, r"^store_dir = .*$", 'store_dir = "models"')
            speed = speed_macs_per_s[index] if index < len(speed_macs_per_s) else SPEED_MACS_PER_S
            with StateDir.open(agent.lab.folder / "state") as state:
                state.persist(SPEED_RECORD, str(speed).encode())
            stack.push_async_callback(agent.stop)
            for relay in _relays(wall, agents, index, made) if walled else ():
                await stack.enter_async_context(relay.running())
        headers = {"Authorization": f"Bearer {lab.api_key}"}
        client = await stack.enter_async_context(
            httpx.AsyncClient(headers=headers, timeout=ANSWER_S_MAX, trust_env=False)
        )
        try:
            yield Processes(lab, tuple(agents), tuple(made), wall, client, model)
        finally:
            # Politely, each would wait until another one has taken its stages.
            for agent in agents:
                with contextlib.suppress(ProcessLookupError):
                    if agent.process is not None:
                        agent.signal(signal.SIGKILL)


def _prepare(lab: Lab, index: int, ports: tuple[int, int], walled: Sequence[Broker]) -> Agent:
    """The files of one agent; ``walled`` are the brokers to be reached through relays, as is everything then."""
    api, data = ports
    agent = Agent(f"a{index + 1}", lab.nodes[index], f"http://127.0.0.1:{api}", data)
    advertised = f'\nadvertise_host = "{_address_of_agent(index)}"' if walled else ""
    _rewrite(agent, r"(?<=\[data\]\n)(host = .*)\nport = 0$", rf"\1\nport = {data}{advertised}")
    _rewrite(agent, r"(?<=\[api\]\n)(host = .*)\nport = 0$", rf"\1\nport = {api}")
    for number, broker in enumerate(walled):
        url = f"mqtt://{_address_of_broker(number, index)}:{broker.port}"
        _rewrite(agent, rf'^url = "{re.escape(broker.url)}"$', f'url = "{url}"')
    return agent


def _rewrite(agent: Agent, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, agent.lab.config.read_text(), flags=re.MULTILINE)
    assert count == 1, f"{pattern} is {count} times in a lab's configuration"
    agent.lab.config.write_text(text)


def _address_of_agent(index: int) -> str:
    return f"127.1.0.{index + 1}"


def _address_of_broker(broker: int, index: int) -> str:
    return f"127.2.{broker}.{index + 1}"


def _relays(wall: Wall, agents: Sequence[Agent], index: int, brokers: Sequence[Broker]) -> list[Relay]:
    """In front of agent ``index``, and between it and each broker."""
    agent = agents[index]

    def ends(port: int) -> Way | None:
        return next(((each.name, agent.name) for each in agents if each.holds(port)), None)

    def to(broker: Broker) -> Relay:
        way = (agent.name, broker.name)
        return Relay(wall, _address_of_broker(brokers.index(broker), index), broker.port, "127.0.0.1", lambda _: way)

    front = Relay(wall, _address_of_agent(index), agent.port, "127.0.0.1", ends)
    return [front, *map(to, brokers)]
