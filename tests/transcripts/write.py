"""``python -m tests.transcripts.write``: write the golden transcripts anew."""

from tests.support.histories import HISTORIES, transcript
from tests.transcripts.test_histories import GOLDEN

if __name__ == "__main__":
    for name in HISTORIES:
        (GOLDEN / f"{name}.txt").write_text(transcript(name))
