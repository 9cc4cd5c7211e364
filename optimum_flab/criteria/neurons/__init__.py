"""Criteria for neurons, one in each file."""
