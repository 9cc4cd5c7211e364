"""Depth: which layers go."""

from .search import CRITERIA, LayerCriterion, Removal, greedy_divergence


__all__ = ["CRITERIA", "LayerCriterion", "Removal", "greedy_divergence"]
