"""What is told of streams that stood still: who was lost to how many, how each went on, and what the gap consisted of.

    last token ── detect ──► noticed ── switch ──► every stage of a new route set going ── rebuild ──► next token

A loss is one line of the story, whatever it hit, and each resume is one, with the loss as its cause. Both stand under
the epoch they happened in, where ``shoal explain`` finds them.
"""

from collections.abc import Sequence

from shoal_agent.core.ledger import Entry, Gap
from shoal_agent.core.outbox import Outbox
from shoal_agent.core.story import Story
from shoal_protocol.ids import Instant, NodeId


def subject_of(entry: Entry) -> str:
    """What the story calls the epoch of ``entry``."""
    return f"{entry.plan.deployment}/{entry.plan.epoch}"


def tell_loss(story: Story, entries: Sequence[Entry], node: NodeId, why: str, now: Instant) -> int:
    """``node`` is lost to ``entries``, at least one; the number of the line."""
    first = entries[0]
    who = f"session {_short(first)}" if len(entries) == 1 else f"{len(entries)} sessions"
    return story.tell(now, subject_of(first), f"{node[:8]} is lost to {who}: {why}", cause=story.last(node))


def tell_resume(story: Story, entry: Entry, gap: Gap, now: Instant, out: Outbox) -> None:
    """The first token after a gap came."""
    restart, resumed = gap.restart, gap.resumed
    assert restart is not None, "tokens come when stages were set going"
    assert resumed is not None, "tokens come when stages were set going"
    parts = (gap.noticed - gap.since, resumed - gap.noticed, now - resumed)
    detect_ms, switch_ms, rebuild_ms = (1000 * part for part in parts)
    gap_ms, predicted_ms = 1000 * (now - gap.since), 1000 * restart.cost_s
    way = "move" if gap.moved else restart.way.value
    begins = ", ".join(str(start.position) for start in restart.starts)
    text = (
        f"session {_short(entry)} went on at position {gap.position} by {way} after {gap_ms:.0f} ms "
        f"(detect {detect_ms:.0f}, switch {switch_ms:.0f}, rebuild {rebuild_ms:.0f}; {predicted_ms:.0f} predicted), "
        f"stages from {begins}, attempt {entry.attempt}"
    )
    story.tell(now, subject_of(entry), text, cause=gap.cause)
    if not gap.moved:
        out.count("sessions_resumed", restart.way.value)
    out.note(
        "info",
        "session moved" if gap.moved else "session resumed",
        session=entry.session.hex(),
        way=way,
        position=gap.position,
        attempt=entry.attempt,
        gap_ms=round(gap_ms, 1),
        detect_ms=round(detect_ms, 1),
        switch_ms=round(switch_ms, 1),
        rebuild_ms=round(rebuild_ms, 1),
        predicted_ms=round(predicted_ms, 1),
    )


def tell_revival(story: Story, entry: Entry, writer: NodeId, now: Instant) -> None:
    """A client came back, and its stream goes on here."""
    count = len(entry.tokens) - entry.prompt_tokens
    story.tell(
        now,
        subject_of(entry),
        f"session {_short(entry)} is taken over from {writer[:8]} with {count} tokens, as its client came here",
        cause=story.last(writer),
    )


def _short(entry: Entry) -> str:
    return entry.session.hex()[:8]
