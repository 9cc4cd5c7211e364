"""Rows of the vocabulary out of a model's files as they are, whatever they are quantised to; nothing is computed."""
