"""Experiments: what is claimed of the control is measured here, against everything it should beat.

A layer above the core and the simulator and below the commands. Our own rules are called in ``core``, the very code
the agent runs; the baselines live here. Everything follows from seeds: no clock, no chance of its own.
"""
