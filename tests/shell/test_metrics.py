import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from shoal_agent.shell.metrics import CONTENT_TYPE, FAMILIES, Metrics, Readings
from shoal_protocol.limits import METRIC_LABELS_MAX
from tests.support.house import PACKAGES, sources
from tests.support.protocol import LOAD

READINGS = Readings(
    kv_bytes=4096,
    sessions=2,
    shadows=5,
    tensors=3,
    requests=1,
    nodes=4,
    relays=2,
    brokers={"b": False, "a": True},
    ready=True,
    tasks=11,
    loads=(LOAD,),
    calls_away=6,
)


@pytest.fixture
def metrics():
    return Metrics(lambda: READINGS, "1.2.3")


def samples(metrics):
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def test_what_is_counted_is_documented_here_and_nothing_else():
    """A counter without a row would stop the agent; a row without a counter would promise too much."""
    calls = re.compile(r"(?:\bout\.|\b_|\bself\.|\bself\._)count\(\s*\"(\w+)\"")
    counted = {name for source in sources(PACKAGES["shoal_agent"]) for name in calls.findall(source.text)}
    assert counted == set(FAMILIES)


def test_every_name_is_ours_and_has_a_help(metrics):
    for family in text_string_to_metric_families(metrics.render().decode()):
        assert family.name.startswith("shoal_"), family.name
        assert family.documentation, family.name


def test_counts_of_the_core(metrics):
    metrics.count("messages_rejected", "replay")
    metrics.count("messages_rejected", "replay")
    metrics.count("messages_rejected", "signature")
    found = samples(metrics)
    assert found["shoal_messages_rejected_total", "replay"] == 2
    assert found["shoal_messages_rejected_total", "signature"] == 1


def test_a_count_without_a_row_is_our_mistake(metrics):
    with pytest.raises(KeyError):
        metrics.count("no_such_family", "x")


def test_labels_of_strangers_are_bounded(metrics):
    for number in range(METRIC_LABELS_MAX + 50):
        metrics.count("peers_misbehaved", f"nonsense {number}")
    metrics.count("peers_misbehaved", "nonsense 0")
    found = {name: value for name, value in samples(metrics).items() if name[0] == "shoal_peers_misbehaved_total"}
    assert len(found) <= METRIC_LABELS_MAX + 1
    assert found["shoal_peers_misbehaved_total", "other"] == 50
    assert found["shoal_peers_misbehaved_total", "nonsense 0"] == 2


def test_gauges_are_read_when_somebody_looks():
    now = [READINGS]
    metrics = Metrics(lambda: now[0], "1.2.3")
    found = samples(metrics)
    assert found["shoal_kv_bytes",] == 4096
    assert found["shoal_sessions",] == 2
    assert found["shoal_shadows",] == 5
    assert found["shoal_tensors",] == 3
    assert found["shoal_requests",] == 1
    assert found["shoal_nodes",] == 4
    assert found["shoal_relays_open",] == 2
    assert found["shoal_tasks",] == 11
    assert found["shoal_ready",] == 1
    assert (found["shoal_broker_up", "a"], found["shoal_broker_up", "b"]) == (1, 0)
    assert found["shoal_build_info", "1.2.3"] == 1
    assert found["shoal_process_resident_memory_bytes",] > 1_000_000
    now[0] = Readings(
        kv_bytes=0, sessions=0, shadows=0, tensors=0, requests=0, nodes=1, relays=0, brokers={}, ready=False
    )
    assert samples(metrics)["shoal_kv_bytes",] == 0
    assert samples(metrics)["shoal_ready",] == 0


def test_gauges_are_not_read_before_there_is_anything_to_read():
    Metrics(lambda: pytest.fail("read too early"), "1.2.3")


def test_times_and_tokens(metrics):
    metrics.first_token(0.2)
    metrics.next_token(0.01)
    metrics.next_token(0.03)
    metrics.stage_run(0.004)
    metrics.used(10, 5)
    metrics.answered("/v1/models", 200)
    found = samples(metrics)
    assert found["shoal_first_token_seconds_count",] == 1
    assert found["shoal_inter_token_seconds_sum",] == pytest.approx(0.04)
    assert found["shoal_stage_run_seconds_bucket", "0.005"] == 1
    assert found["shoal_tokens_total", "prompt"] == 10
    assert found["shoal_tokens_total", "completion"] == 5
    assert found["shoal_api_responses_total", "/v1/models", "200"] == 1


def test_two_nodes_in_one_process_do_not_share(metrics):
    metrics.count("links_lost", "data")
    assert ("shoal_links_lost_total", "data") not in samples(Metrics(lambda: READINGS, "1"))
    assert "version=0.0.4" in CONTENT_TYPE


def test_each_light_service_has_its_gauges(metrics):
    told = samples(metrics)
    assert told["shoal_service_instances", LOAD.service] == LOAD.instances
    assert told["shoal_service_backlog_kib", LOAD.service] == LOAD.waiting
    assert told["shoal_service_rate_kib_per_second", LOAD.service] == LOAD.rate_milli / 1000
    assert told["shoal_service_wait_seconds", LOAD.service] == pytest.approx(LOAD.wait_us / 1e6)
    assert told["shoal_calls_away",] == 6
