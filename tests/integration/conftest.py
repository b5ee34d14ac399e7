"""One real cluster of four agents for all tests that only talk to it; started when the first of them runs."""

import pytest

from tests.support import demo


@pytest.fixture(scope="session")
def cluster():
    with demo.running("--nodes", "4") as started:
        yield started


@pytest.fixture
def api_url(cluster):
    return cluster.api


@pytest.fixture
def api_key(cluster):
    return cluster.key
