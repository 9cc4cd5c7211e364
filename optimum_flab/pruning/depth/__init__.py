"""Depth: which layers go."""

from .search import LayerSearch, Removal


__all__ = ["LayerSearch", "Removal"]
