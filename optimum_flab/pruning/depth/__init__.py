"""Depth: which layers go."""
