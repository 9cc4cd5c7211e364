"""Criteria for experts, one in each file."""
