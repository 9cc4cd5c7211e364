"""FFN width: which neurons stay, and what their output weights become."""

from .elimination import eliminate
from .statistics import NeuronStatistics


__all__ = ["NeuronStatistics", "eliminate"]
