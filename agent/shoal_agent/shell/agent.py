"""An agent from its configuration to its last goodbye: builds the drivers, runs the node among them, takes them down.

Order of birth: key and roster, the state directory and its lock (two agents with one identity would be an
equivocator), the incarnation (durable before anything is sent), the listening sockets (a port in use must be said
before anything is promised), the engine and its measured speed, then the node. Only when everything listens does
systemd hear READY. Order of death is the reverse: the node says goodbye, the brokers get a moment to carry it, then
every driver is taken down, each within a bound.

Nothing is decided here: this file only connects.
"""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from random import Random, SystemRandom
from typing import Final

from shoal_agent.config import Config, api_key_hashes
from shoal_agent.core.council import RECORDS
from shoal_agent.core.events import Restored, Sampled, ServicesAvailable, StopRequested
from shoal_agent.core.flight import FLIGHT_VERSION, Departure
from shoal_agent.core.node import Node
from shoal_agent.core.pipeline import Pipeline
from shoal_agent.core.service_classes import RequestClass
from shoal_agent.core.voice import CoreConfig, Identity
from shoal_agent.shell import ort
from shoal_agent.shell.api.app import build_app
from shoal_agent.shell.api.auth import ApiKeys
from shoal_agent.shell.api.ports import ApiPorts
from shoal_agent.shell.api.server import ApiServer
from shoal_agent.shell.blocks import Blocks
from shoal_agent.shell.catalog_source import CatalogSource, child_environment
from shoal_agent.shell.clock import Clock, unix_s, wall_ms
from shoal_agent.shell.content import Content, ContentSettings
from shoal_agent.shell.dataplane import DataPlane
from shoal_agent.shell.engine import Engine
from shoal_agent.shell.identity import member_in, open_roster, open_sealer
from shoal_agent.shell.lock import LockWatch, lock_files
from shoal_agent.shell.logs import Log
from shoal_agent.shell.metrics import Metrics
from shoal_agent.shell.microbench import measure_speed
from shoal_agent.shell.mqtt import MqttControlPlane
from shoal_agent.shell.mqtt_address import broker_address
from shoal_agent.shell.packages import Packages
from shoal_agent.shell.pipeline_manifest import load_pipelines
from shoal_agent.shell.power import Meter
from shoal_agent.shell.recorder import FLIGHT_FILE, Recorder, RecordingSealer
from shoal_agent.shell.relay import Relay
from shoal_agent.shell.runtime import Drivers, Runtime
from shoal_agent.shell.sensors import Sensors, cores
from shoal_agent.shell.services.host import ServiceHost
from shoal_agent.shell.services.registered import discover
from shoal_agent.shell.sockets import listen, port_of
from shoal_agent.shell.solver import Solver
from shoal_agent.shell.store import StateDir
from shoal_agent.shell.systemd import Systemd
from shoal_agent.shell.tensors import Tensors
from shoal_agent.shell.tls import data_tls
from shoal_agent.shell.window import Window
from shoal_models.errors import ModelError
from shoal_models.package import Store
from shoal_protocol.ids import ClusterId, Instant, NodeId
from shoal_protocol.messages import Endpoint
from shoal_protocol.roster import Role
from shoal_protocol.sealing import Sealer
from shoal_protocol.topics import agent_filters, home_shard, relay_filter

VERSION: Final = version("shoal")
SOURCES_S: Final = 5.0
"""Who begins hears from others within a second, on a busy machine within a few; the catalog takes minutes."""
SAMPLE_S: Final = 5.0
"""Sensors are read this often: a gossiped load older than this would mislead, a fresher one would cost more."""
SEED_BITS: Final = 63
"""Of the node's generator: what a recording can hold; it decides about jitter, not about secrets."""
GOODBYE_S: Final = 1.0
"""How long the brokers have to carry the goodbye."""
STOP_API_S: Final = 5.0
"""The API ends its streams within this, or is cancelled."""
SPEED_RECORD: Final = "speed"
"""The measured speed is kept between lives: a restart should not cost a second, and must not be measured under load."""
KV_SHARE: Final = 4
"""Unless told otherwise, a node keeps one part in so many of the memory it offers for KV."""


@dataclass(frozen=True, slots=True)
class _Ground:
    """What everything else stands on: identity, state, sockets."""

    config: Config
    identity: Identity
    sealer: Sealer
    """The node's own, without the recorder: for what is signed outside of the node."""
    state: StateDir
    log: Log
    clock: Clock
    store: Store
    sensors: Sensors
    meter: Meter
    data_socket: socket.socket
    api_socket: socket.socket | None
    pipelines: tuple[Pipeline, ...]


async def run_agent(config: Config) -> None:
    """Run one agent until SIGTERM or SIGINT. UserError for what an operator can mend."""
    sealer: Sealer = open_sealer(config.node.key_file)
    recorded = sealer if config.node.flight_bytes_max is None else RecordingSealer(sealer)
    roster = open_roster(config.cluster)
    member = member_in(roster, sealer, Role.AGENT)
    pipelines = load_pipelines(config.pipelines.folder, [kind.name for kind in _promises(config)])
    log = Log(config.log, member.node)
    log.adopt_libraries()
    with StateDir.open(config.node.state_dir) as state:
        identity = Identity(member.node, state.next_incarnation(), recorded, roster)
        data_socket = listen(config.data.host, config.data.port)
        api_socket = listen(config.api.host, config.api.port) if config.api.enabled else None
        sensors = Sensors(config.models.store_dir, config.engine.memory_bytes_max)
        store = Store(config.models.store_dir)
        clock = Clock()
        meter = Meter(config.budget.terms().power, clock.now())
        sockets = (data_socket, api_socket)
        ground = _Ground(config, identity, sealer, state, log, clock, store, sensors, meter, *sockets, pipelines)
        ort.configure(config.engine.threads or max(1, cores() - 1))
        speed = await _speed(state)
        async with _connected(ground, speed) as (runtime, node, tasks):
            log.say("info", "started", {"incarnation": identity.incarnation})
            await _live(runtime, node, tasks, Systemd(os.environ))


async def _speed(state: StateDir) -> int:
    """This device's speed, measured in its first life."""
    kept = state.restore(SPEED_RECORD)
    if kept is not None and kept.isdigit() and int(kept) > 0:
        return int(kept)
    speed = await asyncio.to_thread(measure_speed)
    state.persist(SPEED_RECORD, str(speed).encode())
    return speed


# --- connecting ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _connected(ground: _Ground, speed: int) -> AsyncIterator[tuple[Runtime, Node, "_Tasks"]]:
    """Every driver around the node, and all of them down again at the end."""
    config, identity = ground.config, ground.identity
    core_config, seed, now = _core_config(ground), SystemRandom().getrandbits(SEED_BITS), ground.clock.now()
    node = Node(core_config, identity, Random(seed), now)  # noqa: S311 - jitter and choices, no secrets: repeatable
    mind = _recorded(ground, node, core_config, seed, now)
    runtime = Runtime(mind, ground.clock.now)
    tensors = Tensors()
    content: Content
    passed = lambda event: content.from_blocks(event)  # noqa: E731, PLW0108 - content is made later, with the blocks
    blocks = Blocks(ground.store, passed)
    engine = Engine(blocks, tensors, runtime.post, config.engine.lanes)
    services = ServiceHost(tensors, runtime.post, cores())
    window = Window(node, ground.clock, identity.roster.cluster, engine, tensors)
    metrics = Metrics(window.readings, VERSION)
    filters_of = partial(_filters, identity.roster.cluster, identity.node, config.data.relay)
    control = MqttControlPlane(
        identity.node,
        [broker_address(section) for section in config.brokers],
        filters_of((home_shard(identity.node, identity.roster),)),
        lambda broker, connection: mind.will(broker, connection, ground.clock.now()),
        runtime.post,
        metrics.count,
        SystemRandom(),
        filters_of,
    )
    tls = data_tls(identity.node, config.data.certificate_file, config.data.key_file, identity.roster)
    data = DataPlane(
        identity.node,
        identity.incarnation,
        tls,
        ground.data_socket,
        tensors,
        window.resolve,
        runtime.post,
        relays=_relay(ground, control, metrics) if config.data.relay else None,
    )
    tasks = _Tasks(runtime)
    packages = Packages(ground.store, services, runtime.post)
    content = _content(ground, packages, blocks, data, runtime, metrics)
    _register(ground, runtime, services)
    _tell_beginnings(ground, runtime, packages, speed)
    solver = Solver(runtime.post)
    drivers = Drivers(control, data, engine, content, services, tensors, ground.state, metrics, ground.log, solver)
    runtime.attach(drivers)
    try:
        tasks.run("control plane", control.run())
        tasks.run("data plane", data.run())
        tasks.run("content", content.run())
        tasks.run("sensors", _sense(ground, runtime, speed, content, data))
        tasks.run("lock", LockWatch(lock_files(config.node.state_dir, os.environ), runtime.post).run())
        if ground.api_socket is not None:
            keys = ApiKeys(api_key_hashes(config.api))
            told = (window.models, window.ready, window.state, window.explain)
            ports = ApiPorts(runtime, *told, metrics, keys, _promises(config), ground.pipelines)
            app = build_app(ports)
            tasks.serve(ApiServer(app, ground.api_socket))
        yield runtime, node, tasks
        await control.drain(GOODBYE_S)
    finally:
        await tasks.stop()
        await engine.close()
        await blocks.close()
        await solver.close()
        await services.shut_down()


def _filters(cluster: ClusterId, node: NodeId, relay: bool, shards: tuple[int, ...]) -> tuple[str, ...]:  # noqa: FBT001
    """What this agent subscribes to."""
    return (*agent_filters(cluster, node, shards), *([relay_filter(cluster, node)] if relay else []))


def _relay(ground: _Ground, control: MqttControlPlane, metrics: Metrics) -> Relay:
    """The way to peers that cannot be reached directly."""
    identity = ground.identity
    relay = Relay(identity.node, identity.roster, ground.sealer, control, metrics.count)
    control.divert(relay_filter(identity.roster.cluster, identity.node).removesuffix("+"), relay.arrived)
    return relay


def _content(
    ground: _Ground, packages: Packages, blocks: Blocks, data: DataPlane, runtime: Runtime, metrics: Metrics
) -> Content:
    """Packages between nodes: what the data plane keeps from the core."""
    config, store = ground.config, ground.store
    moved = config.budget.moved_bytes_per_s or 0
    settings = ContentSettings(config.content.bytes_per_s_max, config.models.disk_bytes_max, SOURCES_S, moved)
    catalog = CatalogSource(store, child_environment(os.environ, store.root)) if config.content.catalog else None
    content = Content(
        settings,
        store,
        packages.announce,
        blocks,
        catalog,
        data.send_content,
        runtime.post,
        metrics.count,
        ground.log.say,
    )
    data.divert(content)
    return content


def _core_config(ground: _Ground) -> CoreConfig:
    config = ground.config
    host = f"[{config.api.host}]" if ":" in config.api.host else config.api.host
    api = "" if ground.api_socket is None else f"http://{host}:{port_of(ground.api_socket)}"
    kv_bytes_max = config.engine.kv_bytes_max or ground.sensors.memory_bytes // KV_SHARE
    data = Endpoint(config.data.advertise_host, port_of(ground.data_socket))
    cluster = ground.identity.roster.cluster
    software, terms = f"shoal {VERSION}", config.budget.terms()
    leave_s_max, promises = config.node.leave_s_max, _promises(config)
    return CoreConfig(cluster, data, api, kv_bytes_max, software, leave_s_max, terms, promises)


def _promises(config: Config) -> tuple[RequestClass, ...]:
    return tuple(section.promise() for section in config.classes)


def _recorded(ground: _Ground, node: Node, config: CoreConfig, seed: int, now: Instant) -> Node | Recorder:
    """``node``, with a recorder around it where the operator wants one."""
    bytes_max, identity, cluster = ground.config.node.flight_bytes_max, ground.identity, ground.config.cluster
    if bytes_max is None:
        return node
    assert isinstance(identity.sealer, RecordingSealer), "made with the identity"
    departure = Departure(
        FLIGHT_VERSION,
        config,
        identity.node,
        identity.sealer.public_key,
        identity.incarnation,
        identity.roster.wire,
        unix_s(),
        tuple(bytes.fromhex(key) for key in cluster.root_keys),
        cluster.root_threshold,
        seed,
        now,
    )
    file = ground.config.node.state_dir / FLIGHT_FILE
    ground.log.say("warning", "recording everything, clients' words included", {"file": str(file)})
    return Recorder(node, identity.sealer, departure, file, bytes_max)


def _register(ground: _Ground, runtime: Runtime, services: ServiceHost) -> None:
    """The light services that installed packages bring."""
    brought, faults = discover()
    for fault in faults:
        ground.log.say("error", "light service left out", {"why": fault})
    for service in brought:
        services.register(service)
    if brought:
        runtime.post(ServicesAvailable(services.names))


def _tell_beginnings(ground: _Ground, runtime: Runtime, packages: Packages, speed: int) -> None:
    """What the node must know before anything else happens: the machine, its packages, its earlier life."""
    runtime.post(_reading(ground, speed))
    store = ground.store
    loads = [("error", name, partial(store.load, name)) for name in store.names()]
    # What came from peers, and is not whole because this agent was killed meanwhile, is fetched again.
    loads += [("warning", model.hex(), partial(store.find, model)) for model in store.fetched()]
    for level, name, load in loads:
        try:
            packages.announce_now(load())
        except ModelError as fault:
            ground.log.say(level, "package refused", {"package": name, "why": str(fault)})
    names = ground.state.names()
    for kind in RECORDS:
        for name in names:
            if name.startswith(f"{kind}."):
                runtime.post(Restored(name, ground.state.restore(name) or b""))


def _reading(ground: _Ground, speed: int, moved_bytes: int = 0, rates: tuple[tuple[NodeId, int], ...] = ()) -> Sampled:
    capacity, load = ground.sensors.capacity(speed, ort.providers()), ground.sensors.load()
    joules, seconds = ground.meter.read(load.cpu_permille / 1000, ground.clock.now())
    return Sampled(capacity, load, wall_ms(), joules, seconds, moved_bytes, rates)


async def _sense(ground: _Ground, runtime: Runtime, speed: int, content: Content, data: DataPlane) -> None:
    while True:
        await asyncio.sleep(SAMPLE_S)
        runtime.post(_reading(ground, speed, content.moved(), data.rates()))


# --- living --------------------------------------------------------------------------------------------------------


class _Tasks:
    """The tasks that must not end: one that does, ends the agent."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._tasks: set[asyncio.Task[None]] = set()
        self._api: tuple[ApiServer, asyncio.Task[None]] | None = None

    def run(self, name: str, work: "asyncio._CoroutineLike[None]") -> asyncio.Task[None]:
        """Run ``work`` until the end."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def serve(self, server: ApiServer) -> None:
        """Run the API, which is asked to stop before it is cancelled."""
        self._api = (server, self.run("api", server.run()))

    async def stop(self) -> None:
        """End all of them: the API first, so that its streams can say why."""
        for task in self._tasks:
            task.remove_done_callback(self._ended)
        if self._api is not None:
            server, task = self._api
            server.stop()
            await asyncio.wait([task], timeout=STOP_API_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self._runtime.fail(task.exception() or RuntimeError(f"{task.get_name()} ended by itself"))


async def _live(runtime: Runtime, node: Node, tasks: _Tasks, systemd: Systemd) -> None:
    """Until somebody asks us to stop, or something of ours breaks."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: _unhandled(runtime, context))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: runtime.post(StopRequested()))
    if systemd.watchdog_s is not None:
        tasks.run("watchdog", systemd.beat())
    systemd.notify("READY=1", "STATUS=serving")
    try:
        await runtime.stopped
    finally:
        systemd.notify("STOPPING=1")
    node.check()


def _unhandled(runtime: Runtime, context: dict[str, object]) -> None:
    """An exception nobody awaited is a mistake of ours; a message without one is only a complaint of the loop."""
    fault = context.get("exception")
    if isinstance(fault, Exception) and not isinstance(fault, OSError):
        runtime.fail(fault)
