"""FFN width: which neurons stay, and what their output weights become."""

from .criteria import CRITERIA, NeuronCriterion
from .elimination import eliminate
from .statistics import NeuronStatistics


__all__ = ["CRITERIA", "NeuronCriterion", "NeuronStatistics", "eliminate"]
