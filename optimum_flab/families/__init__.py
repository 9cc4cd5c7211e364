"""Families of models, as data: what each axis of each tensor is, and what deciding needs to know.

Adding a family is one file in `known/`; users name their own with `--family`.
"""

from .axes import matrices_of, misfit, plain_axes, select_along
from .files import FAMILY_NAME, family_for, known_families, read_family, save_family
from .schema import BlockFacts, Family, Older, has_module


__all__ = [
    "FAMILY_NAME",
    "BlockFacts",
    "Family",
    "Older",
    "family_for",
    "has_module",
    "known_families",
    "matrices_of",
    "misfit",
    "plain_axes",
    "read_family",
    "save_family",
    "select_along",
]
