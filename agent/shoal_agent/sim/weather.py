"""How well the network is doing right now: read with every message, changed by faults."""

from dataclasses import dataclass


@dataclass
class Weather:
    """Probabilities are per message; delays in seconds. As made, everything is well."""

    link_s: tuple[float, float] = (0.001, 0.004)
    """A frame takes between these."""
    broker_s: tuple[float, float] = (0.001, 0.010)
    """A message takes between these, once to the broker and once from it."""
    frame_loss: float = 0.0
    """A frame is lost for good: the connection breaks with it, as TCP's do."""
    message_loss: float = 0.0
    """A broker loses a message on the way to one node, whatever it acknowledged."""
    duplicate: float = 0.0
    """A broker delivers a message twice."""
    reorder_s: float = 0.0
    """Messages from a broker are late by up to this, each by its own."""
    clog_s: float = 0.0
    """Every frame is late by this."""
    repeat_frame: float = 0.0
    """A peer sends a frame twice."""
    wrong_epoch: float = 0.0
    """A peer sends an activation or a token under the epoch after the one that is agreed."""
