"""Depth: which layers go."""

from .search import LayerSearch, Removal, greedy_divergence


__all__ = ["LayerSearch", "Removal", "greedy_divergence"]
