"""When an instance may go: once it has lost what starting another would cost.

Rule A prices the start of an instance, so it starts few. Stopping is free in the slot it happens in, and dear when the
instance is missed a moment later: a node that stops whatever does not pay for itself *in this slot* starts it again in
the next burst, over and over. This is the ski-rental problem (Karlin, Manasse, Rudolph, Sleator 1988): who does not
know how long the idle time will be keeps renting until the rent has reached the price, and so never pays more than
twice what the clairvoyant pays.

The k-th running instance of a service gains ``worth(k) - worth(k - 1)`` in a slot (see ``instances``; rent and promised
lateness included, no start). Losses add up, gains take them back, never below zero (Page's CUSUM), so one that is worth
its rent on average stays for ever. At the price of a start it may go; whether it does, rule A decides.

Against a fixed time after the last task (20 slots): that one never ends on a node that has a task every few slots, so
instances stay where they are dear; measured by ``shoal experiment staleness``.
"""

from shoal_agent.core.instances import Light, Prices, worth


class Losses:
    """Of the instances of one service on this node."""

    def __init__(self) -> None:
        self._lost: list[float] = []

    def stay(self, light: Light, prices: Prices) -> int:
        """How many of those running must stay; to be asked once in every slot."""
        price = prices.v * light.boot + prices.moved * light.boot_bytes
        lost = [*self._lost[: light.running], *([0.0] * (light.running - len(self._lost)))]
        for index in range(light.running):
            gain = worth(light, index + 1, prices) - worth(light, index, prices)
            lost[index] = max(lost[index] - gain, 0.0)
        self._lost = lost
        kept = max((index + 1 for index, loss in enumerate(lost) if loss < price), default=0)
        return max(kept, light.busy)
