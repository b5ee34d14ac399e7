"""``shoal status``: the cluster as one agent sees it.

Much of what is shown was written by other nodes: it is text, never markup, and never a control sequence of a terminal.
"""

import sys
from collections.abc import Iterable
from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shoal_agent.cli.client import DEFAULT_API, Api, Key, api_client, get_json
from shoal_agent.cli.output import AsJson, print_json
from shoal_agent.errors import FailedError

NODE_CHARS: Final = 8
"""Enough of an id to tell nodes apart; --json has all of it."""
PIPE_WIDTH: Final = 160
"""Columns when stdout is no terminal: nothing is cut off in a file."""


def status(*, api: Api = DEFAULT_API, key: Key = "", as_json: AsJson = False) -> None:
    """Show who is here, which blocks they hold, which epoch.

    The view is that of one agent; others may have heard more, or less.

    Example: shoal status --api http://192.168.1.20:8600
    """
    with api_client(api, key) as client:
        state = get_json(client, "/shoal/v1/state")
    if as_json:
        print_json(state)
        return
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    console = Console(width=width, markup=False, highlight=False, emoji=False)
    try:
        _show(console, state)
    except (KeyError, TypeError, ValueError) as fault:
        raise FailedError(f"a state this version cannot read: {fault!r}", "shoal status --json") from fault


def _show(console: Console, state: dict[str, Any]) -> None:
    brokers = ", ".join(f"{each['broker']} {'up' if each['up'] else 'DOWN'}" for each in state.get("brokers", ()))
    console.print(f"cluster {state['cluster']}, seen by {state['node']}" + (f"; brokers: {brokers}" if brokers else ""))
    console.print(_nodes(state))
    for deployment in state["deployments"]:
        told = f"{deployment['deployment']}: epoch {deployment['epoch']}, {deployment['phase'].lower()}"
        console.print(_plain(told + _detour(deployment)))
        console.print(_stages(deployment))
    if not state["deployments"]:
        console.print("no deployment; shoal deploy MODEL makes one")
    if state["rejected"]:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(state["rejected"].items()))
        console.print(f"rejected messages: {counts}")


def _nodes(state: dict[str, Any]) -> Table:
    table = Table("node", "phase", "link", "blocks", "speed", "memory", "load", "api", "version", box=SIMPLE)
    for node in state["nodes"]:
        held = ", ".join(
            f"{each['deployment']} e{each['epoch']} {each['first_block']}-{each['last_block']}"
            for each in node["hosted"]
        )
        capacity, load = node["capacity"], node["load"]
        locked = ", locked" if node.get("locked") else ""
        table.add_row(
            node["node"][:NODE_CHARS] + (" *" if node["node"] == state["node"] else ""),
            node["phase"].lower() + locked if node["alive"] else Text("silent", style="red"),
            _link(node.get("link")),
            _plain(held) or "-",
            f"{capacity['speed_macs_per_s'] / 1e9:.1f} GMAC/s",
            f"{capacity['memory_bytes'] / 2**30:.1f} GiB",
            f"{load['cpu']:.0%}, {load['sessions']} sessions",
            _plain(node["api"]) or "-",
            _plain(node["software"]),
        )
    return table


def _link(link: dict[str, Any] | None) -> Text:
    """How far a node is from the one that was asked; through brokers is worth a look."""
    if link is None or (link["rtt_ms"] is None and not link["relayed"]):
        return Text("-")
    far = "?" if link["rtt_ms"] is None else f"{link['rtt_ms']:.1f} ms"
    return Text(f"{far}, relay", style="yellow") if link["relayed"] else Text(far)


def _stages(deployment: dict[str, Any]) -> Table:
    table = Table("stage", "node", "blocks", "state", "standbys", box=SIMPLE)
    for index, stage in enumerate(deployment["stages"]):
        said = (stage.get("phase") or "silent").lower()
        detail = f": {stage['detail']}" if stage.get("detail") else ""
        state = Text(_plain(said + detail), style="green" if stage["ready"] else "yellow")
        blocks, standbys = f"{stage['first_block']}-{stage['last_block']}", _standbys(stage.get("standbys", ()))
        table.add_row(str(index), stage["node"][:NODE_CHARS], blocks, state, standbys)
    return table


def _detour(deployment: dict[str, Any]) -> str:
    """Over whom requests go, if not over the nodes of the plan."""
    route = deployment.get("route")
    if route is None or route == [stage["node"] for stage in deployment["stages"]]:
        return ""
    return " over " + ", ".join(node[:NODE_CHARS] for node in route)


def _standbys(standbys: Iterable[dict[str, Any]]) -> Text:
    """Who could take the stage's place, and who not yet."""
    words = [(each["node"][:NODE_CHARS], each["open"]) for each in standbys]
    told = [Text(node + ("" if is_open else " not yet"), "green" if is_open else "yellow") for node, is_open in words]
    return Text(", ").join(told) if told else Text("none")


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
