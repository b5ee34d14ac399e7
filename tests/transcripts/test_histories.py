"""The golden transcripts: what eighteen histories of a small cluster read like, word for word.

After a change that is meant to change them, ``python -m tests.transcripts.write`` writes them anew; the difference is
what there is to review.
"""

from pathlib import Path

import pytest

from tests.support.histories import HISTORIES, transcript

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", HISTORIES)
def test_a_history_goes_as_it_went(name):
    assert transcript(name).splitlines() == (GOLDEN / f"{name}.txt").read_text().splitlines()


def test_there_is_a_transcript_for_each_history_and_no_other():
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == sorted(HISTORIES)
    assert len(HISTORIES) >= 15
