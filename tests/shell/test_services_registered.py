import asyncio
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest

from shoal_agent.core.effects import CallService
from shoal_agent.core.events import ServiceFailed, ServiceReturned
from shoal_agent.core.facts import CallId
from shoal_agent.shell.services.host import ServiceHost
from shoal_agent.shell.services.registered import GROUP, discover
from shoal_agent.shell.tensors import Tensors
from shoal_protocol.headers import ServiceFault


@dataclass
class Turn:
    """Turns a text around, and does other things on purpose."""

    name: str = "turn"
    methods: tuple[str, ...] = ("around", "refuse", "break", "lie")

    def build(self):
        return self.answer

    def answer(self, method, request):
        match method:
            case "around":
                return request[::-1]
            case "refuse":
                raise ValueError("not this one")
            case "break":
                raise RuntimeError("oh")
        return "no bytes"


class Named(Turn):
    def __init__(self):
        super().__init__(name="Not A Name")


class Ours(Turn):
    def __init__(self):
        super().__init__(name="tokenizer:ff")


class Idle(Turn):
    def __init__(self):
        super().__init__(name="idle", methods=())


class Broken:
    def __init__(self):
        raise OSError("no such file")


def entry(name: str) -> EntryPoint:
    return EntryPoint(name.lower(), f"{__name__}:{name}", GROUP)


@pytest.fixture
async def scene():
    events = asyncio.Queue()
    host = ServiceHost(Tensors(), events.put_nowait)
    host.register(Turn())
    yield host, events
    await host.shut_down()


async def ask(scene, method: str, request: bytes = b"abc"):
    host, events = scene
    host.call(CallService(CallId(1), "turn", method, request, None))
    async with asyncio.timeout(5):
        return await events.get()


def test_what_installed_packages_bring_is_found_and_what_is_wrong_is_named():
    names = ("Turn", "Named", "Ours", "Idle", "Broken", "Nothing", "Turn")
    found, faults = discover([entry(name) for name in names])
    assert [service.name for service in found] == ["turn"]
    assert len(faults) == len(names) - 1
    for fault, word in zip(
        faults, ("Not A Name", "tokenizer:ff", "methods", "no such", "Nothing", "already"), strict=True
    ):
        assert word in fault


def test_nothing_is_registered_where_nothing_is_installed():
    assert discover([]) == ((), ())


async def test_it_is_offered_and_called_by_its_name(scene):
    assert scene[0].names == ("turn",)
    assert await ask(scene, "around") == ServiceReturned(CallId(1), b"cba")


@pytest.mark.parametrize(
    ("method", "fault", "word"),
    [
        ("refuse", ServiceFault.REFUSED, "not this one"),
        ("nothing", ServiceFault.REFUSED, "has no method"),
        ("break", ServiceFault.FAILED, "RuntimeError: oh"),
        ("lie", ServiceFault.FAILED, "bytes"),
    ],
)
async def test_whatever_it_does_is_answered(scene, method, fault, word):
    answer = await ask(scene, method)
    assert isinstance(answer, ServiceFailed)
    assert answer.fault is fault
    assert word in answer.reason
