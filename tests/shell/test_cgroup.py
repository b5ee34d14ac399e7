import pytest

from shoal_agent.shell.cgroup import Limits, limits


@pytest.fixture
def tree(tmp_path):
    """A hierarchy in which this process is in /shoal.slice/agent, written file by file."""
    root = tmp_path / "cgroup"
    (root / "shoal.slice" / "agent").mkdir(parents=True)
    membership = tmp_path / "self"
    membership.write_text("4:memory:/else\n0::/shoal.slice/agent\n")

    def read(**files: str) -> Limits:
        for name, text in files.items():
            folder, _, file = name.rpartition("__")
            (root / folder.replace("__", "/") / file.replace("_", ".")).write_text(f"{text}\n")
        return limits(root, membership)

    read.folder = root
    read.membership = membership
    return read


AGENT = "shoal.slice__agent__"


def test_without_limits_there_is_nothing_to_know(tree):
    assert tree() == Limits(None, None)
    assert tree(**{f"{AGENT}cpu_max": "max 100000", f"{AGENT}memory_max": "max"}) == Limits(None, None)


@pytest.mark.parametrize(
    ("quota", "cores"), [("100000 100000", 1), ("150000 100000", 2), ("400000 100000", 4), ("5000 100000", 1)]
)
def test_a_quota_is_rounded_up_to_cores(tree, quota, cores):
    assert tree(**{f"{AGENT}cpu_max": quota}).cores == cores


def test_memory_is_what_may_still_be_taken(tree):
    assert tree(**{f"{AGENT}memory_max": "1000", f"{AGENT}memory_current": "400"}).memory_bytes == 600
    assert tree(**{f"{AGENT}memory_current": "1001"}).memory_bytes == 0


def test_the_tightest_limit_above_counts(tree):
    read = tree(
        **{
            f"{AGENT}cpu_max": "400000 100000",
            "shoal.slice__cpu_max": "200000 100000",
            f"{AGENT}memory_max": "1000",
            f"{AGENT}memory_current": "0",
            "shoal.slice__memory_max": "900",
            "shoal.slice__memory_current": "500",
        }
    )
    assert read == Limits(2, 400)


def test_a_container_sees_its_group_as_the_root(tree):
    tree.membership.write_text("0::/\n")
    (tree.folder / "cpu.max").write_text("200000 100000\n")
    assert tree().cores == 2


@pytest.mark.parametrize("text", ["", "nonsense", "100000", "-1 100000", "100000 0", "1 2 3"])
def test_what_is_no_limit_is_none(tree, text):
    assert tree(**{f"{AGENT}cpu_max": text}).cores is None


def test_version_1_of_the_hierarchy_is_not_read(tree):
    tree.membership.write_text("4:memory:/shoal.slice/agent\n")
    assert tree(**{f"{AGENT}cpu_max": "100000 100000"}) == Limits(None, None)


def test_no_hierarchy_is_no_limit(tmp_path):
    assert limits(tmp_path / "none", tmp_path / "none") == Limits(None, None)


def test_this_machine_can_be_asked():
    read = limits()
    assert read.cores is None or read.cores >= 1
    assert read.memory_bytes is None or read.memory_bytes > 0
