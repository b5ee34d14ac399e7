"""``shoal version``: what is installed here. Imports nothing heavy: versions are read from package metadata."""

import platform
from importlib.metadata import version as installed
from typing import Final

from shoal_agent.cli.output import AsJson, print_json
from shoal_protocol.envelope import ENVELOPE_VERSION
from shoal_protocol.frames import FRAME_VERSION

PROTOCOL: Final = f"{ENVELOPE_VERSION}.{FRAME_VERSION}"
"""Envelope version, frame version: two nodes understand each other if both are equal."""


def version(*, as_json: AsJson = False) -> None:
    """Print the versions of shoal and of what it stands on.

    Example: shoal version --json
    """
    versions = {
        "shoal": installed("shoal"),
        "protocol": PROTOCOL,
        "onnxruntime": installed("onnxruntime"),
        "python": platform.python_version(),
    }
    if as_json:
        print_json(versions)
        return
    for name, value in versions.items():
        print(f"{name:<12} {value}")
