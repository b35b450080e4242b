"""A provider to practise on: a real HTTP server with enforced quotas, real pictures, and faults on demand."""

from providers.simulator.server import Simulator
from providers.simulator.settings import SimulatorSettings

__all__ = ["Simulator", "SimulatorSettings"]
