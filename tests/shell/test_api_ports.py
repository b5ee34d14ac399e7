import dataclasses

from shoal_agent.shell.api.ports import ServedModel
from shoal_protocol.ids import DeploymentId, Epoch
from tests.support.texts import MODEL


def test_the_fingerprint_changes_with_the_weights_and_with_the_plan():
    served = ServedModel(DeploymentId("m"), MODEL, Epoch(3), 2048, 0)
    assert served.fingerprint == "fp_00010203_3"
    assert dataclasses.replace(served, epoch=Epoch(4)).fingerprint != served.fingerprint
