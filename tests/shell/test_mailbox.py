import asyncio

import pytest

from shoal_agent.core.effects import Broadcast
from shoal_agent.shell.mailbox import Mailbox


def retained(topic, wire=b""):
    return Broadcast(topic, wire, retain=True, at_least_once=True, expiry_s=60)


def passing(wire):
    return Broadcast("beat", wire, retain=False, at_least_once=False, expiry_s=60)


async def contents(mailbox):
    taken = []
    while len(mailbox):
        taken.append(await mailbox.first())
        mailbox.sent(taken[-1])
    return taken


async def test_messages_leave_in_the_order_they_came():
    mailbox = Mailbox(10)
    messages = [passing(b"1"), retained("a"), passing(b"2"), retained("b")]
    for message in messages:
        assert mailbox.put(message) == 0
    assert await contents(mailbox) == messages


async def test_of_a_retained_topic_only_the_latest_waits_and_keeps_its_place():
    mailbox = Mailbox(10)
    for message in (retained("a", b"old"), passing(b"1"), retained("a", b"new")):
        mailbox.put(message)
    assert await contents(mailbox) == [retained("a", b"new"), passing(b"1")]


async def test_passing_messages_are_not_merged():
    mailbox = Mailbox(10)
    for _ in range(3):
        mailbox.put(passing(b"same"))
    assert len(mailbox) == 3


async def test_when_full_the_oldest_passing_message_goes():
    mailbox = Mailbox(3)
    for message in (retained("a"), passing(b"1"), passing(b"2")):
        mailbox.put(message)
    assert mailbox.put(retained("b")) == 1
    assert mailbox.put(retained("a", b"new")) == 0
    assert await contents(mailbox) == [retained("a", b"new"), passing(b"2"), retained("b")]


async def test_votes_outlast_heartbeats_and_records_outlast_votes():
    def vote(wire):
        return Broadcast("c", wire, retain=False, at_least_once=True, expiry_s=60)

    mailbox = Mailbox(3)
    for message in (vote(b"1"), passing(b"1"), retained("a")):
        mailbox.put(message)
    assert mailbox.put(vote(b"2")) == 1
    assert mailbox.put(passing(b"2")) == 1, "a heartbeat drives out nothing else"
    assert await contents(mailbox) == [vote(b"1"), retained("a"), vote(b"2")]
    for message in (vote(b"1"), retained("a"), vote(b"2"), retained("b")):
        mailbox.put(message)
    assert await contents(mailbox) == [retained("a"), vote(b"2"), retained("b")]


async def test_when_full_of_retained_messages_the_oldest_goes():
    mailbox = Mailbox(2)
    for topic in "abc":
        mailbox.put(retained(topic))
    assert await contents(mailbox) == [retained("b"), retained("c")]


async def test_a_message_under_way_stays_until_it_was_sent():
    mailbox = Mailbox(2)
    mailbox.put(retained("a"))
    under_way = await mailbox.first()
    assert await mailbox.first() is under_way
    mailbox.put(retained("a", b"newer"))
    mailbox.sent(under_way)
    assert await contents(mailbox) == [retained("a", b"newer")]


async def test_a_reader_waits_for_the_next_message():
    mailbox = Mailbox(2)
    reader = asyncio.create_task(mailbox.first())
    await asyncio.sleep(0)
    assert not reader.done()
    mailbox.put(passing(b"1"))
    assert await asyncio.wait_for(reader, 5) == passing(b"1")


async def test_a_broken_link_forgets_what_was_meant_for_a_moment():
    mailbox = Mailbox(5)
    for message in (passing(b"1"), retained("a"), passing(b"2")):
        mailbox.put(message)
    mailbox.forget_passing()
    assert await contents(mailbox) == [retained("a")]


@pytest.mark.parametrize("end", ["sent", "forgotten"])
async def test_emptied_waits_for_the_last_message(end):
    mailbox = Mailbox(5)
    await asyncio.wait_for(mailbox.emptied(), 5)
    mailbox.put(passing(b"1"))
    waiting = asyncio.create_task(mailbox.emptied())
    await asyncio.sleep(0)
    assert not waiting.done()
    if end == "sent":
        mailbox.sent(await mailbox.first())
    else:
        mailbox.forget_passing()
    await asyncio.wait_for(waiting, 5)


async def test_what_waits_aside_leaves_when_nothing_else_wants_to():
    mailbox = Mailbox(10, 2)
    beats, relayed = [passing(b"1"), passing(b"2")], [passing(b"r1"), passing(b"r2")]
    assert mailbox.put_aside(relayed[0])
    mailbox.put(beats[0])
    assert mailbox.put_aside(relayed[1])
    assert not mailbox.put_aside(passing(b"r3")), "whoever misses it sends it again"
    first = await mailbox.first()
    assert first is beats[0]
    mailbox.sent(first)
    second = await mailbox.first()
    assert second is relayed[0]
    mailbox.put(beats[1])
    mailbox.sent(second)
    third = await mailbox.first()
    assert third is beats[1], "a heartbeat waits for one of them at most"
    mailbox.sent(third)
    assert await mailbox.first() is relayed[1]
    await asyncio.wait_for(mailbox.emptied(), 1.0)  # a goodbye does not wait for what lies aside
    mailbox.forget_passing()
    mailbox.put(beats[0])
    assert await mailbox.first() is beats[0]


async def test_somebody_waits_for_the_first_message_aside():
    mailbox = Mailbox(10, 2)
    waiting = asyncio.create_task(mailbox.first())
    await asyncio.sleep(0)
    message = passing(b"r")
    mailbox.put_aside(message)
    assert await asyncio.wait_for(waiting, 1.0) is message
