"""Kinds of tokenizer models: how each splits text, and which tokens may go without changing that.

A kind is one module of this folder with one [`Kind`]; it is found without being registered. `docs/tokenizers.md` says
how to add one.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from ...utils.errors import FlabError
from .kind import Kind


for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

KINDS: dict[str, type[Kind]] = {kind.model_type: kind for kind in Kind.__subclasses__()}


def kind_of(model_type: str | None) -> type[Kind]:
    """The kind of a model, by its name in `tokenizer.json`.

    Args:
        model_type (`str`, *optional*): such as "BPE".

    Raises:
        [`FlabError`]: there is none; names the known ones.
    """
    if model_type not in KINDS:
        *others, last = sorted(KINDS)
        raise FlabError(
            f"the tokenizer is of type {model_type}; only the vocabulary of {', '.join(others)} and {last} can be"
            " pruned; switch it off for this model"
        )
    return KINDS[model_type]


__all__ = ["KINDS", "Kind", "kind_of"]
