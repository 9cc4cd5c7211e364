"""What a model costs to store and to run, next to a baseline: bytes, parameters, memory, FLOPs, latency, throughput,
energy and CO2e."""

from .measuring import measure_efficiency
from .report import EfficiencyReport, check_output


__all__ = ["EfficiencyReport", "check_output", "measure_efficiency"]
