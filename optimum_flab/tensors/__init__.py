"""Tensors by name, read on demand from whatever files they are in."""
