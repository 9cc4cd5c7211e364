"""Runs a model one layer at a time, and completes prompts."""
