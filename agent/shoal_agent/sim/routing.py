"""Who hears a topic: MQTT's subscriptions and retained messages, each as a tree of topic levels.

A filter is a topic in which ``+`` stands for any one level. With a thousand nodes and a topic for each, comparing every
filter with every topic would be most of a world's work; in a tree a topic only meets, level by level, the branch of its
own name and the branch of ``+``. Results come in the order of insertion, so nothing depends on hash seeds.
"""

from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

Hearer = TypeVar("Hearer", bound=Hashable)

ANY: Final = "+"
_LEAF: Final = "/"
"""Where a tree keeps what belongs to the topic that ends there; no level is called so."""

_Tree = dict[str, Any]


def _walk(tree: _Tree, levels: list[str]) -> _Tree:
    for level in levels:
        tree = tree.setdefault(level, {})
    return tree


def _matching(tree: _Tree, levels: list[str], at: int = 0) -> Iterator[_Tree]:
    """Branches of a tree of filters that ``levels``, a topic, reaches."""
    if at == len(levels):
        yield tree
        return
    for name in (levels[at], ANY):
        branch = tree.get(name)
        if branch is not None:
            yield from _matching(branch, levels, at + 1)


def _matched(tree: _Tree, levels: list[str], at: int = 0) -> Iterator[_Tree]:
    """Branches of a tree of topics that ``levels``, a filter, reaches."""
    if at == len(levels):
        yield tree
        return
    names = [name for name in tree if name != _LEAF] if levels[at] == ANY else [levels[at]]
    for name in names:
        branch = tree.get(name)
        if branch is not None:
            yield from _matched(branch, levels, at + 1)


class Subscriptions(Generic[Hearer]):
    """Who subscribed to what."""

    def __init__(self) -> None:
        self._tree: _Tree = {}
        self._filters: dict[Hearer, tuple[str, ...]] = {}
        self._hearers: dict[str, tuple[Hearer, ...]] = {}
        """By topic, until any subscription changes."""

    def set(self, hearer: Hearer, filters: Iterable[str]) -> list[str]:
        """``hearer`` hears ``filters`` and nothing else; those it did not hear before."""
        wanted, before = tuple(dict.fromkeys(filters)), self._filters.get(hearer, ())
        for name in before:
            if name not in wanted:
                del _walk(self._tree, name.split("/"))[_LEAF][hearer]
        fresh = [name for name in wanted if name not in before]
        for name in fresh:
            _walk(self._tree, name.split("/")).setdefault(_LEAF, {})[hearer] = True
        self._filters[hearer] = wanted
        self._hearers.clear()
        return fresh

    def drop(self, hearer: Hearer) -> None:
        """``hearer`` hears nothing any more."""
        self.set(hearer, ())
        del self._filters[hearer]

    def hearers(self, topic: str) -> tuple[Hearer, ...]:
        """Everybody who subscribed to ``topic``, each once."""
        found = self._hearers.get(topic)
        if found is None:
            branches = _matching(self._tree, topic.split("/"))
            found = tuple(dict.fromkeys(hearer for branch in branches for hearer in branch.get(_LEAF, ())))
            self._hearers[topic] = found
        return found


class Retained:
    """The last retained message of every topic."""

    def __init__(self) -> None:
        self._tree: _Tree = {}

    def keep(self, topic: str, wire: bytes) -> None:
        """``wire`` is what comes to whoever subscribes to ``topic`` later."""
        _walk(self._tree, topic.split("/"))[_LEAF] = (topic, wire)

    def under(self, filters: Iterable[str]) -> list[tuple[str, bytes]]:
        """Topic and wire of everything retained that ``filters`` name."""
        return [
            branch[_LEAF] for name in filters for branch in _matched(self._tree, name.split("/")) if _LEAF in branch
        ]
