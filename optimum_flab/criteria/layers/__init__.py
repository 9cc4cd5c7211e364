"""Criteria for layers, one in each file."""
