import pytest

from shoal_agent.experiments.paper_b import cluster, trace
from shoal_agent.experiments.paper_b.assumptions import assumptions


@pytest.mark.parametrize("weather", trace.WEATHERS)
@pytest.mark.parametrize("width", cluster.CUT_BYTES)
def test_every_parameter_that_decides_a_figure_is_told(weather, width):
    told = "\n".join(assumptions(weather, width, 20, 3600.0))
    sky = trace.WEATHERS[weather]
    parameters = [
        f"20 seeds of 3600 s, {sky.busy}",
        f"{sky.mtbf_s / 60:g} min",
        f"{cluster.CUT_BYTES[width] / 1000:g} kB",
    ]
    for words in [*parameters, f"({width})", f"{sky.link}", "1.9-2.98 s", "4/s", "0.3 s", "3 s", "100 MB/s"]:
        assert all(part in told for part in words.split(", (")), words
    assert "projection" in told
