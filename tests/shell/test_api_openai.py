"""The whole suite of the real client against an ingress without a cluster, and what only such an ingress can show."""

import pytest

from tests.integration.test_openai_client import *  # noqa: F403 - every test of the suite runs here too
from tests.support.twin import KEY, twin_server


@pytest.fixture(scope="module")
def api_url():
    with twin_server() as url:
        yield url


@pytest.fixture
def api_key():
    return KEY
