"""In processes of their own: what is asked of the heap holds for the whole process, and for ever."""

import json
import subprocess
import sys

import pytest

from shoal_agent.shell import heap

MIB = 2**20
PIECES = 64
FILL = f"""
import ctypes, json, threading
from pathlib import Path
from shoal_agent.shell import heap

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
pieces = []

def memory(field):
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

def allocate(sizes=[{MIB}] * {PIECES}):
    for number, size in enumerate(sizes):
        pieces.append(libc.malloc(ctypes.c_size_t(size)))
        ctypes.memset(ctypes.c_void_p(pieces[-1]), number + 1, size)

def in_a_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

def free(some):
    for piece in some:
        libc.free(ctypes.c_void_p(piece))

def inside():
    start, end = heap._heap()
    return sum(start <= piece < end for piece in pieces)
"""


def told(code: str) -> dict[str, int]:
    """What ``code`` puts into ``facts``, after FILL."""
    program = f"{FILL}\nfacts = {{}}\n{code}\nprint(json.dumps(facts))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_whatever_a_thread_allocates_lies_in_one_heap():
    facts = told("""
facts["can"] = heap.keep_together()
in_a_thread(allocate)
facts["inside"] = inside()
""")
    assert facts == {"can": True, "inside": PIECES}
    assert told('in_a_thread(allocate)\nfacts["inside"] = inside()') == {"inside": 0}, "which it does not by itself"


def test_the_heap_is_collapsed_into_huge_pages_and_nothing_in_it_changes():
    facts = told("""
heap.keep_together()
in_a_thread(allocate)
before = memory("AnonHugePages:")
facts["resident_before"] = memory("Rss:")
facts["can"] = heap.use_huge_pages()
facts["again"] = heap.use_huge_pages()
facts["huge"] = memory("AnonHugePages:") - before
facts["resident"] = memory("Rss:")
facts["same"] = sum(ctypes.string_at(piece, 2**20) == bytes([at + 1]) * 2**20 for at, piece in enumerate(pieces))
""")
    if not facts["can"]:
        pytest.skip("this kernel does not collapse memory on request")
    assert facts["again"]
    assert facts["same"] == PIECES
    assert facts["huge"] > (PIECES - 4) * MIB
    assert facts["resident"] - facts["resident_before"] < 6 * MIB


def test_holes_are_given_back_when_asked_for():
    facts = told("""
heap.keep_together()
before = memory("Rss:")
in_a_thread(allocate)
heap.use_huge_pages()
free(pieces[:-1])
facts["kept"] = memory("Rss:") - before
facts["can"] = heap.trim()
facts["left"] = memory("Rss:") - before
facts["same"] = ctypes.string_at(pieces[-1], 2**20) == bytes([64]) * 2**20
""")
    assert facts["can"]
    assert facts["same"]
    assert facts["kept"] > (PIECES - 4) * MIB
    assert facts["left"] < 8 * MIB


def test_a_short_free_end_stays_and_a_long_one_goes():
    facts = told(f"""
heap.keep_together()
before = memory("Rss:")
for name, sizes in (("short", [{heap.SLACK_BYTES // 2}]), ("long", [{2 * heap.SLACK_BYTES}])):
    allocate(sizes)
    free([pieces.pop()])
    facts[name] = memory("Rss:") - before
""")
    assert facts["short"] > heap.SLACK_BYTES * 0.4
    assert facts["long"] < heap.SLACK_BYTES


def test_another_system_is_only_slower(monkeypatch):
    class Other:
        """A C library and a kernel that can nothing of it."""

        def madvise(self, *_):
            return -1

    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: Other())
    assert not heap.keep_together()
    assert not heap.use_huge_pages()
    assert not heap.trim()


def test_a_heap_that_cannot_be_seen_is_left_alone(monkeypatch):
    def refuse(_):
        raise PermissionError

    monkeypatch.setattr(heap.Path, "read_text", refuse)
    assert not heap.use_huge_pages()
