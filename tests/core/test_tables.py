from shoal_agent.core.tables import RECORD_SPACING_S, Tables
from shoal_agent.core.timers import Routine
from shoal_protocol.ids import Instant


def test_a_change_is_published_soon_and_not_once_for_each_change():
    tables = Tables()
    tables.changed(Instant(10.0))
    tables.changed(Instant(10.3))
    assert tables.timers.deadline() == 10.0 + RECORD_SPACING_S
    assert tables.timers.due(Instant(11.0)) == [Routine.RECORD_SOON]


def test_after_it_was_published_the_next_change_counts_anew():
    tables = Tables()
    tables.changed(Instant(1.0))
    tables.timers.due(Instant(2.0))
    tables.changed(Instant(2.0))
    assert tables.timers.deadline() == 2.0 + RECORD_SPACING_S


def test_two_nodes_share_no_table():
    one, other = Tables(), Tables()
    one.brokers["a"] = True
    one.rejected["replay"] += 1
    assert (other.brokers, other.rejected) == ({}, {})
