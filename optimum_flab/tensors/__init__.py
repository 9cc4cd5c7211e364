"""Tensors by name, read when they are asked for, from whatever files they are in."""
