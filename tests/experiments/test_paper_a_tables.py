from shoal_agent.experiments.paper_a import tables


def test_every_service_is_core_or_light_and_used():
    assert sorted((*tables.CORES, *tables.LIGHTS)) == list(range(1, 16))
    used = {service for pipeline in tables.PIPELINES for service in pipeline}
    assert used == set(range(1, 16))


def test_pipelines_are_inverse_trees_with_parents_first():
    for pipeline in tables.PIPELINES:
        seen = []
        for service, parents in pipeline.items():
            assert set(parents) <= set(seen)
            seen.append(service)
        children = [parent for parents in pipeline.values() for parent in parents]
        assert len(children) == len(set(children)) == len(pipeline) - 1


def test_every_device_hangs_on_a_server():
    assert len(tables.SERVER_OF) == tables.DEVICES
    assert set(tables.SERVER_OF) == set(range(tables.SERVERS))
