"""What several modules of this room stand on."""

import pytest

from tests.support.stand import Stand


@pytest.fixture
def stand():
    """Two hosts, an ingress played by hand and a stranger; nothing may be left open at the end."""
    made = Stand()
    yield made
    made.world.check_idle()
