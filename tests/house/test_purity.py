"""The core and the protocol decide; they reach for nothing.

The import linter sees which modules are named; this looks at what is done: calls into the process, iteration over sets
(whose order changes with the hash seed, so two runs of one seed would differ), and floats where bytes are signed.
"""

import ast
import dataclasses
import types
import typing
from collections.abc import Iterator
from typing import Final

import pytest

from shoal_protocol import messages
from tests.support.house import PACKAGES, PURE, Source, product, sources

IMPURE_MODULES: Final = frozenset(
    {
        "asyncio",
        "socket",
        "ssl",
        "threading",
        "time",
        "os",
        "logging",
        "structlog",
        "aiomqtt",
        "highspy",
        "onnxruntime",
        "psutil",
    }
)
IMPURE_CALLS: Final = frozenset(
    {"open", "print", "input", "exec", "eval", "compile", "breakpoint", "globals", "__import__", "id", "hash"}
)
"""``id`` and ``hash`` differ from process to process: nothing decided may depend on them."""

MQTT: Final = frozenset({"agent/shoal_agent/shell/mqtt.py", "agent/shoal_agent/shell/mqtt_client.py"})
"""The control plane, and what it needs of the client below."""
DRIVERS: Final = {
    "aiomqtt": MQTT,
    "paho": MQTT,
    "highspy": frozenset({"agent/shoal_agent/highs.py"}),
    "onnxruntime": frozenset({"agent/shoal_agent/shell/ort.py"}),
    "psutil": frozenset({"agent/shoal_agent/shell/sensors.py"}),
    "structlog": frozenset({"agent/shoal_agent/shell/logs.py"}),
}
"""Libraries to the files that may know them."""


def imports(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Every top-level package imported anywhere in ``tree``, in functions too, but not for types only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((node, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node, node.module.split(".")[0]
        else:
            yield from imports(node)


def impurities(source: Source) -> list[str]:
    """Banned imports and calls of one file."""
    faults = [f"{source.at(node)} imports {name}" for node, name in imports(source.tree) if name in IMPURE_MODULES]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            faults.append(f"{source.at(node)} calls {node.func.id}()")
        if isinstance(node, ast.AsyncFunctionDef | ast.Global):
            faults.append(f"{source.at(node)} has {type(node).__name__}")
    return faults + chance(source)


def chance(source: Source) -> list[str]:
    """``random.Random`` may be named as a type; a generator is never made here, nor the module's own one used."""
    faults = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names):
            faults.append(f"{source.at(node)} imports the module random: import Random, as a type")
        if isinstance(node, ast.ImportFrom) and node.module == "random" and [n.name for n in node.names] != ["Random"]:
            faults.append(f"{source.at(node)} imports more of random than the type")
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"Random", "SystemRandom"}
        ):
            faults.append(f"{source.at(node)} makes a random generator")
    return faults


class SetIterations(ast.NodeVisitor):
    """Finds where a set is iterated, as far as one file shows that something is a set."""

    MAKERS: Final = frozenset({"set", "frozenset"})
    ORDERED_READERS: Final = frozenset(
        {"list", "tuple", "enumerate", "iter", "zip", "map", "filter", "reversed", "next"}
    )
    ANNOTATIONS: Final = frozenset({"set", "frozenset", "Set", "AbstractSet", "MutableSet"})

    def __init__(self, source: Source) -> None:
        self.source = source
        self.faults: list[str] = []
        self.names: set[str] = set()
        for node in ast.walk(source.tree):
            self._learn(node)

    def _learn(self, node: ast.AST) -> None:
        """Remember names (and attributes) that are annotated as a set or assigned one."""
        if isinstance(node, ast.AnnAssign) and self._says_set(node.annotation):
            self.names.add(ast.unparse(node.target).removeprefix("self."))
        if isinstance(node, ast.arg) and node.annotation is not None and self._says_set(node.annotation):
            self.names.add(node.arg)
        if isinstance(node, ast.Assign) and self.is_set(node.value):
            self.names.update(ast.unparse(target).removeprefix("self.") for target in node.targets)

    def _says_set(self, annotation: ast.expr) -> bool:
        head = annotation.value if isinstance(annotation, ast.Subscript) else annotation
        return isinstance(head, ast.Name) and head.id in self.ANNOTATIONS

    def is_set(self, node: ast.expr) -> bool:
        """Whether ``node`` evidently is a set."""
        match node:
            case ast.Set() | ast.SetComp():
                return True
            case ast.Call(func=ast.Name(id=name)):
                return name in self.MAKERS
            case ast.BinOp(left=left, op=ast.BitAnd() | ast.BitOr() | ast.Sub() | ast.BitXor(), right=right):
                return self.is_set(left) or self.is_set(right)
            case ast.Name() | ast.Attribute():
                return ast.unparse(node).removeprefix("self.") in self.names
        return False

    def _require_order(self, node: ast.expr) -> None:
        if self.is_set(node):
            self.faults.append(f"{self.source.at(node)} iterates over a set: {ast.unparse(node)[:60]}")

    def visit_For(self, node: ast.For) -> None:
        self._require_order(node.iter)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._require_order(node.iter)
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        self._require_order(node.value)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        reads_in_order = isinstance(node.func, ast.Name) and node.func.id in self.ORDERED_READERS
        joins = isinstance(node.func, ast.Attribute) and node.func.attr == "join"
        if reads_in_order or joins:
            for argument in node.args:
                self._require_order(argument)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "pop" and not node.args:
            self._require_order(node.func.value)
        self.generic_visit(node)


def set_iterations(source: Source) -> list[str]:
    """Where ``source`` iterates over a set without sorting it."""
    finder = SetIterations(source)
    finder.visit(source.tree)
    return finder.faults


def snippet(text: str) -> Source:
    return Source(PACKAGES["shoal_agent"] / "core" / "x.py", "x.py", text, ast.parse(text))


def test_core_and_protocol_reach_for_nothing():
    faults = [fault for source in sources(*PURE) for fault in impurities(source)]
    assert not faults, "\n".join(faults)


def test_core_and_protocol_never_iterate_a_set():
    faults = [fault for source in sources(*PURE) for fault in set_iterations(source)]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "text",
    [
        "for x in {1, 2}: pass",
        "def f(seen: set[int]):\n    return [x for x in seen]",
        "class A:\n    def f(self):\n        self._seen: set[int] = make()\n        return list(self._seen)",
        "a = frozenset(b)\nfirst = next(iter(a))",
        "a = set()\na.pop()",
        "','.join({x for x in y})",
        "for x in set(a) - set(b): pass",
    ],
)
def test_the_scan_sees_a_set(text):
    assert set_iterations(snippet(text))


@pytest.mark.parametrize("text", ["for x in sorted({1, 2}): pass", "a = set()\nb = 1 in a", "a = {}\nfor k in a: pass"])
def test_the_scan_lets_order_pass(text):
    assert not set_iterations(snippet(text))


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    import time",
        "from os import path",
        "print(1)",
        "async def f(): pass",
        "key = hash('a')",
        "import random",
        "from random import shuffle",
        "from random import Random\nrng = Random(1)",
    ],
)
def test_the_scan_sees_an_impurity(text):
    assert impurities(snippet(text))


def test_a_type_only_import_is_pure():
    assert not impurities(snippet("from random import Random\ndef f(rng: Random): return rng.random()"))
    assert not impurities(snippet("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import asyncio"))


@pytest.mark.parametrize(("package", "only"), DRIVERS.items(), ids=DRIVERS)
def test_each_driver_library_is_known_to_its_driver(package, only):
    importers = {source.name for source in product() for _, name in imports(source.tree) if name == package}
    assert importers == only


def test_signed_messages_hold_no_floats():
    """Two encodings of one number would be two signatures; a NaN would be no number at all."""
    classes = [value for value in vars(messages).values() if dataclasses.is_dataclass(value)]
    assert len(classes) >= len(typing.get_args(messages.ControlMessage))
    faults = [
        f"{cls.__name__}.{field}"
        for cls in classes
        for field, hint in typing.get_type_hints(cls).items()
        if float in parts(hint)
    ]
    assert not faults


def parts(hint: object) -> list[object]:
    """A type and all the types inside it, NewTypes opened."""
    if isinstance(hint, typing.NewType):
        return parts(hint.__supertype__)
    inner = typing.get_args(hint)
    if not inner:
        return [hint]
    assert typing.get_origin(hint) in {tuple, types.UnionType, typing.Union}, f"no container for a message: {hint}"
    return [part for argument in inner for part in parts(argument)]
