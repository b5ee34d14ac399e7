from shoal_agent.core.story import STORY_ENTRIES_MAX, Entry, Story
from shoal_protocol.ids import Instant


def test_it_tells_about_one_subject_in_order():
    story = Story()
    story.tell(Instant(1.0), "toy/0", "accepted")
    story.tell(Instant(2.0), "other/0", "refused")
    story.tell(Instant(3.0), "toy/0", "loading")
    assert story.about("toy/0") == (Entry(Instant(1.0), "toy/0", "accepted"), Entry(Instant(3.0), "toy/0", "loading"))
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
