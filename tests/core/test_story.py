from shoal_agent.core.story import STORY_ENTRIES_MAX, Entry, Story
from shoal_protocol.ids import Instant

NOW = Instant(1.0)


def test_it_tells_about_one_subject_in_order():
    story = Story()
    story.tell(Instant(1.0), "toy/0", "accepted")
    story.tell(Instant(2.0), "other/0", "refused")
    story.tell(Instant(3.0), "toy/0", "loading")
    first, second = story.about("toy/0")
    assert first == Entry(Instant(1.0), "toy/0", "accepted", 1)
    assert second == Entry(Instant(3.0), "toy/0", "loading", 3)
    assert story.about("nobody") == ()
    assert [entry.at for entry in story.entries()] == [1.0, 2.0, 3.0]


def test_the_oldest_falls_out():
    story = Story()
    for number in range(STORY_ENTRIES_MAX + 3):
        story.tell(Instant(float(number)), "toy/0", str(number))
    entries = story.entries()
    assert len(entries) == STORY_ENTRIES_MAX
    assert entries[0].text == "3"
    assert entries[-1].text == str(STORY_ENTRIES_MAX + 2)


def test_causes_are_followed_back():
    story = Story()
    dead = story.tell(NOW, "node a", "dead")
    story.tell(NOW, "node b", "slow")
    wish = story.tell(NOW, "toy/1", "wished", cause=dead)
    story.tell(NOW, "toy/1", "agreed", cause=wish)
    assert [entry.text for entry in story.why("toy/1")] == ["dead", "wished", "agreed"]
    assert [entry.text for entry in story.why("node b")] == ["slow"]
    assert story.why("nobody") == ()


def test_the_last_word_about_a_subject_can_be_named_while_it_is_remembered():
    story = Story()
    assert story.last("node a") is None
    story.tell(NOW, "node a", "suspect")
    assert story.tell(NOW, "node a", "dead") == story.last("node a") == 2
    for _ in range(STORY_ENTRIES_MAX):
        story.tell(NOW, "noise", "")
    assert story.last("node a") is None
    assert story.last("noise") == STORY_ENTRIES_MAX + 2


def test_a_cause_that_is_forgotten_is_left_out():
    story = Story()
    dead = story.tell(NOW, "node a", "dead")
    for _ in range(STORY_ENTRIES_MAX):
        story.tell(NOW, "noise", "")
    story.tell(NOW, "toy/1", "wished", cause=dead)
    assert [entry.text for entry in story.why("toy/1")] == ["wished"]
