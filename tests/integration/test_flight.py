"""A real agent's recording, lived again: real brokers, links and blocks, and every step as it was."""

from shoal_agent.shell.lab import LabSettings
from shoal_agent.shell.operator import DeployWish
from shoal_agent.sim.replay import replay
from tests.support.fleet import command
from tests.support.processes import processes
from tests.support.repair import MEMORY_BYTES, MODEL, SETTLED_S_MAX, begin

FLIGHT_BYTES_MAX = 64 * 1024 * 1024


async def test_the_life_of_a_host_that_loses_a_peer_is_repeated_step_by_step(tiny_store, tmp_path):
    settings = LabSettings(tmp_path / "lab", 3, tiny_store.root, (), memory_bytes=MEMORY_BYTES)
    async with processes(settings) as cluster:
        witness, victim, other = cluster.agents
        config = witness.lab.config
        config.write_text(config.read_text().replace("[node]\n", f"[node]\nflight_bytes_max = {FLIGHT_BYTES_MAX}\n"))
        await begin(cluster, cluster.agents, DeployWish(MODEL, stages=3))
        expected = await cluster.ask(witness)
        await victim.kill()
        await cluster.until(lambda view: view.epoch >= 1 and view.active, [witness, other], SETTLED_S_MAX)
        assert await cluster.ask(witness) == expected
        await witness.stop()
    flight = witness.lab.folder / "state" / "flight"
    result = replay(flight)
    assert result.difference is None
    assert result.steps > 200
    told = "\n".join(entry.text for entry in result.story)
    assert "dead" in told
    assert "plan" in told
    again = command("sim", "replay", flight)
    assert (again["difference"], again["steps"]) == (None, result.steps)
