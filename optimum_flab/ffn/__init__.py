"""FFN width: which neurons stay, and what their output weights become."""

from .criteria import CRITERIA, Criterion
from .elimination import eliminate, refit
from .statistics import NeuronStatistics


__all__ = ["CRITERIA", "Criterion", "NeuronStatistics", "eliminate", "refit"]
