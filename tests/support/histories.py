"""The histories that the golden transcripts tell: what strikes a small cluster, and when.

A ``Play`` is a world of named nodes with its oracles and a narrator. A history is a function that makes things happen
in it; what the cluster makes of them is told by the nodes themselves.
"""

from collections.abc import Callable
from textwrap import wrap
from typing import Any

from shoal_agent.core.effects import Broadcast
from shoal_agent.core.events import LockChanged, StopRequested
from shoal_agent.sim.machine import Machine, Seen
from shoal_agent.sim.narrator import Narrator, name_of
from shoal_agent.sim.oracles import Judge, decides
from shoal_agent.sim.settings import TOY, Settings
from shoal_agent.sim.world import World
from shoal_protocol.ids import NodeId
from shoal_protocol.messages import Certified, Plan, Proposed, VoteCast, VoteKind

SEED = 11
SETTLE_S = 60.0
WIDTH = 120


class Play:
    """A world in which things happen to nodes that have names."""

    def __init__(self, nodes: int = 5, hosts: int = 3, seed: int = SEED, **settings: int) -> None:
        made = Settings(seed=seed, nodes=nodes, hosts=hosts, **settings)
        self.narrator = Narrator()
        self.judge = Judge(made.blocks, made.context_tokens)
        self.world = World(made, self, None)
        self.judge.begin(self.world)
        self.narrator.introduce(self.world.names)
        self.ids = {name_of(index): node for index, node in enumerate(self.world.names)}
        self._traps: list[Callable[[NodeId, Any], bool]] = []

    # --- as the world's witness -------------------------------------------------------------------------------------

    def handled(self, seen: Seen) -> None:
        self.narrator.handled(seen)
        self.judge.handled(seen)

    def published(self, node: NodeId, effect: Broadcast, at_s: float) -> None:
        self.judge.published(node, effect, at_s)
        if self._traps:
            message = self.world.opened(effect).message
            self._traps = [trap for trap in self._traps if not trap(node, message)]

    def asked(self, machine: Machine, request: Any) -> None:
        self.judge.asked(machine, request)

    # --- what happens -----------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        self.narrator.strike(self.world.agenda.now, text)

    def begin(self) -> None:
        """Switch on, deploy, and wait until everybody serves."""
        self.world.start()
        self.say("the operator deploys toy")
        self.world.deploy()
        self.settle()

    def pass_by(self, seconds: float) -> None:
        self.world.run(seconds)
        self.judge.look(self.world)

    def settle(self) -> None:
        """Wait until every living node serves under the newest plan."""
        for _ in range(int(SETTLE_S * 10)):
            self.pass_by(0.1)
            if decides(self.world, self.judge) is None:
                return
        raise AssertionError(decides(self.world, self.judge))

    def kill(self, name: str) -> None:
        self.say(f"{name} is killed")
        self.world.crash(self.ids[name])

    def cut_power(self, name: str) -> None:
        self.say(f"{name} loses its power")
        self.world.crash(self.ids[name], silent=True)

    def forget(self, name: str) -> None:
        self.say(f"{name} is killed, and its disk is lost")
        self.world.crash(self.ids[name], amnesia=True)

    def boot(self, name: str) -> None:
        self.say(f"{name} is switched on")
        self.world.boot(self.ids[name])

    def leave(self, name: str) -> None:
        self.say(f"{name}'s operator stops it")
        self.world.machines[self.ids[name]].post(StopRequested())

    def lock(self, name: str, *, held: bool) -> None:
        self.say(f"{name}'s operator {'locks' if held else 'unlocks'} it")
        self.world.machines[self.ids[name]].post(LockChanged(held))

    def pause(self, name: str) -> None:
        self.say(f"{name} is stopped (SIGSTOP)")
        self.world.pause(self.ids[name])

    def resume(self, name: str) -> None:
        self.say(f"{name} goes on (SIGCONT)")
        self.world.machines[self.ids[name]].resume()

    def brokers(self, *, up: bool) -> None:
        self.say("all brokers are back" if up else "all brokers die")
        for broker in self.world.brokers.names:
            (self.world.brokers.start if up else self.world.brokers.stop)(broker)

    def part(self, *group: str) -> Callable[[], None]:
        """``group`` and the others reach each other neither by links nor by brokers; the healer."""
        self.say(f"{' and '.join(group)} are cut off from the others")
        inside = [self.ids[name] for name in group]
        outside = [node for node in self.world.names if node not in inside]
        pairs = [(one, other) for one in inside for other in outside]
        pairs += [(other, one) for one, other in pairs]
        first, *rest = self.world.brokers.names
        cuts = [(first, node) for node in outside] + [(broker, node) for broker in rest for node in inside]
        for source, target in pairs:
            self.world.links.block(source, target)
        for broker, node in cuts:
            self.world.brokers.cut(broker, node)

        def heal() -> None:
            self.say("the network is whole again")
            for source, target in pairs:
                self.world.links.unblock(source, target)
            for broker, node in cuts:
                self.world.brokers.mend(broker, node)

        return heal

    def trap(self, kind: type, what: str, test: Callable[[Any], bool] = lambda _: True) -> None:
        """Whoever first says something of ``kind`` dies the moment it has said it."""

        def spring(node: NodeId, message: Any) -> bool:
            if type(message) is not kind or not test(message):
                return False
            self.world.agenda.after(0.0, lambda: self._spring(node, what))
            return True

        self._traps.append(spring)

    def _spring(self, node: NodeId, what: str) -> None:
        self.say(f"{node} is killed the moment it has {what}")
        self.world.crash(node)

    def newest(self) -> Plan:
        plan = self.judge.agreed.newest(TOY)
        assert plan is not None
        return plan

    def name(self, node: NodeId) -> str:
        return next(name for name, known in self.ids.items() if known == node)


# --- the histories ----------------------------------------------------------------------------------------------------


def founding(play: Play) -> None:
    """An operator deploys, five nodes take it up."""
    play.begin()


def killed_host(play: Play) -> None:
    """A host is killed; the others put somebody in its place."""
    play.begin()
    play.kill("bert")
    play.settle()


def power_cut(play: Play) -> None:
    """A host vanishes without a word from its system."""
    play.begin()
    play.cut_power("cora")
    play.settle()


def paused_host(play: Play) -> None:
    """A host hangs, is replaced, and learns on waking that it is host no more."""
    play.begin()
    play.pause("anna")
    play.settle()
    play.pass_by(3.0)
    play.resume("anna")
    play.settle()
    play.pass_by(5.0)


def short_pause(play: Play) -> None:
    """A host hangs for a second: nobody is replaced for that."""
    play.begin()
    play.pause("anna")
    play.pass_by(1.0)
    play.resume("anna")
    play.pass_by(10.0)
    play.settle()


def goodbye(play: Play) -> None:
    """An operator stops a host: it is replaced before it goes."""
    play.begin()
    play.leave("bert")
    play.pass_by(15.0)
    play.settle()


def proposer_dies_proposing(play: Play) -> None:
    """The proposer of the repair dies the moment it has proposed."""
    play.begin()
    play.trap(Proposed, "proposed")
    play.kill("bert")
    play.pass_by(2.0)
    play.settle()


def proposer_dies_prevoting(play: Play) -> None:
    """The first to prevote dies of it."""
    play.begin()
    play.trap(VoteCast, "prevoted", lambda vote: vote.vote is VoteKind.PREVOTE)
    play.kill("bert")
    play.pass_by(2.0)
    play.settle()


def proposer_dies_precommitting(play: Play) -> None:
    """The first to precommit dies of it; the lock it leaves behind binds the others."""
    play.begin()
    play.trap(VoteCast, "precommitted", lambda vote: vote.vote is VoteKind.PRECOMMIT and vote.value is not None)
    play.kill("bert")
    play.pass_by(2.0)
    play.settle()


def certificate_dies_with_its_holder(play: Play) -> None:
    """The first to hold the certificate dies the moment it has shown it."""
    play.begin()
    play.trap(Certified, "shown the certificate")
    play.kill("bert")
    play.pass_by(2.0)
    play.settle()


def partition_and_heal(play: Play) -> None:
    """Two of five are cut off: three decide without them, and they catch up."""
    play.begin()
    heal = play.part("anna", "dora")
    play.pass_by(8.0)
    heal()
    play.pass_by(15.0)
    play.settle()


def voter_change_in_a_partition(play: Play) -> None:
    """While a node is cut off, the voters change; it comes back to a plan it had no part in."""
    play.begin()
    heal = play.part("emil")
    play.pass_by(4.0)
    play.kill("bert")
    play.pass_by(6.0)
    heal()
    play.pass_by(15.0)
    play.settle()


def brokers_die(play: Play) -> None:
    """All brokers die, then a host: the links are enough."""
    play.begin()
    play.brokers(up=False)
    play.pass_by(5.0)
    play.kill("cora")
    play.pass_by(1.0)
    play.settle()
    play.brokers(up=True)
    play.pass_by(10.0)


def lost_memory(play: Play) -> None:
    """A voter comes back without its disk: it is told that it has lived before, and keeps from voting."""
    play.begin()
    play.forget("anna")
    play.settle()
    play.pass_by(2.0)
    play.boot("anna")
    play.pass_by(15.0)
    play.settle()


def newcomer(play: Play) -> None:
    """A machine is switched on and helps: after a minute of being better it is used."""
    play.begin()
    play.boot("emil")
    play.pass_by(100.0)
    play.settle()


def newcomer_under_a_lock(play: Play) -> None:
    """The same while an operator postpones changes; a lock stops improvements, no repair."""
    play.begin()
    play.lock("anna", held=True)
    play.boot("emil")
    play.pass_by(100.0)
    play.kill("bert")
    play.pass_by(1.0)
    play.settle()
    play.lock("anna", held=False)
    play.pass_by(5.0)


def equivocator(play: Play) -> None:
    """One of four voters lies to each half; f = 1 survives it, and the liar is convicted."""
    play.begin()
    honest = [name for name, node in play.ids.items() if node not in play.world.liars]
    hosts = [play.name(stage.node) for stage in play.newest().stages]
    play.kill(next(name for name in honest if name in hosts))
    play.pass_by(20.0)
    play.settle()


def recovery(play: Play) -> None:
    """Two of three voters are lost for good: nobody can decide, operators can."""
    play.begin()
    lost = [play.name(voter) for voter in play.newest().voters][:2]
    for name in lost:
        play.kill(name)
    play.pass_by(15.0)
    play.say("the operators order a recovery")
    play.world.recover(play.newest())
    play.settle()


HISTORIES: dict[str, tuple[Callable[[Play], None], dict[str, int]]] = {
    "01-founding": (founding, {}),
    "02-killed-host": (killed_host, {}),
    "03-power-cut": (power_cut, {}),
    "04-paused-host": (paused_host, {}),
    "05-short-pause": (short_pause, {}),
    "06-goodbye": (goodbye, {}),
    "07-proposer-dies-proposing": (proposer_dies_proposing, {"nodes": 6, "hosts": 4}),
    "08-proposer-dies-prevoting": (proposer_dies_prevoting, {"nodes": 6, "hosts": 4}),
    "09-proposer-dies-precommitting": (proposer_dies_precommitting, {"nodes": 6, "hosts": 4}),
    "10-certificate-dies-with-its-holder": (certificate_dies_with_its_holder, {"nodes": 6, "hosts": 4}),
    "11-partition-and-heal": (partition_and_heal, {}),
    "12-voter-change-in-a-partition": (voter_change_in_a_partition, {}),
    "13-brokers-die": (brokers_die, {}),
    "14-lost-memory": (lost_memory, {}),
    "15-newcomer": (newcomer, {"late": 1}),
    "16-newcomer-under-a-lock": (newcomer_under_a_lock, {"late": 1}),
    "17-equivocator": (equivocator, {"nodes": 6, "hosts": 3, "faulty": 1, "liars": 1}),
    "18-recovery": (recovery, {}),
}


def transcript(name: str) -> str:
    """What ``name`` reads like; AssertionError if an oracle objects, or the cluster does not come to rest."""
    history, settings = HISTORIES[name]
    play = Play(**settings)
    history(play)
    assert not play.judge.violations, play.judge.violations[:3]
    title = (history.__doc__ or "").splitlines()[0]
    lines = [wrap(line, WIDTH, subsequent_indent=" " * 11, break_long_words=False) for line in play.narrator.lines]
    return "\n".join([f"{name}: {title}", "", *(part for line in lines for part in line), ""])
