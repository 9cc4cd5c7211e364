"""Makes the report of a pruning."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

import torch
from transformers import PreTrainedModel

from ..checkpoints.hashes import weights_hash
from ..checkpoints.loading import LoadedModel
from ..checkpoints.tokenizer import left_out_note
from ..families import Family
from ..records.base_card import base_card_of
from ..records.held_out import HeldOut
from ..records.plan import PruningPlan
from ..records.report import Base, Computation, Report, Search, TextCounts
from ..records.sides import Part, Side
from ..settings.pruning import COMPONENTS
from ..sizes import count_parameters, shape_of


PACKAGES = ("optimum-flab", "torch", "transformers", "tokenizers", "optimum", "accelerate")


def build_report(
    dense: LoadedModel,
    pruned: PreTrainedModel,
    plan: PruningPlan,
    held_out: HeldOut | None,
    seconds: Mapping[str, float],
    search: Search | None = None,
    texts: TextCounts | None = None,
    datasets: Iterable[str] = (),
    weights_sha256: str | None = None,
    notes: Iterable[str] = (),
) -> Report:
    """The report of a pruning.

    Args:
        dense ([`LoadedModel`]): the dense model.
        pruned (`PreTrainedModel`): as it will be written, or on the meta device.
        held_out ([`HeldOut`], *optional*): `None` if nothing was measured, as when a plan is applied.
        seconds (`Mapping[str, float]`): wall time per step.
        search ([`Search`], *optional*): `None` where a plan is applied.
        texts ([`TextCounts`], *optional*): `None` where a plan is applied.
        datasets (`Iterable[str]`): ids of the Hub datasets that were read.
        weights_sha256 (`str`, *optional*): of the pruned model, if already known.
        notes (`Iterable[str]`): what the user should know, besides the notes on the dense model.
    """
    if weights_sha256 is None and pruned.device.type != "meta":
        weights_sha256 = weights_hash(pruned)
    card = base_card_of(dense.folder, dense.gguf)
    layers = len(dense.family.decoder_layers(dense.model))
    before = _side(dense.model, dense.family, dense.storage_dtype)
    after = _side(pruned, dense.family, getattr(torch, plan.dtype))
    return Report(
        base_model=Base(name=dense.name, revision=dense.revision, weights_sha256=plan.base_hash, card=card),
        weights_sha256=weights_sha256,
        dense=before,
        pruned=after,
        removed_ratio=1 - after.parameters / before.parameters,
        removed_body_ratio=1 - after.body_parameters / before.body_parameters,
        target_ratio=plan.settings.get("target_ratio"),
        removed_layer_indices=tuple(sorted(set(range(layers)) - set(plan.kept_layers))),
        held_out=held_out,
        search=search,
        texts=texts,
        datasets=tuple(datasets),
        notes=(*dense.notes, *_left_out(dense), *notes),
        seed=plan.settings.get("seed"),
        computation=Computation(
            dtype=str(dense.model.dtype).removeprefix("torch."),
            device=dense.device.type,
        ),
        seconds=dict(seconds),
        versions={"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}},
    )


def _side(model: PreTrainedModel, family: Family, dtype: torch.dtype) -> Side:
    counts, shape = count_parameters(model, family), shape_of(model, family)
    total = counts.total(shape)
    return Side(
        **{part.reported: shape.get(part.dimension) for part in COMPONENTS},
        parameters=total,
        bytes=total * dtype.itemsize,
        dtype=str(dtype).removeprefix("torch."),
        components={
            name: Part(parameters=number, bytes=number * dtype.itemsize)
            for name, number in counts.components(shape).items()
        },
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _left_out(dense: LoadedModel) -> list[str]:
    """A note on files of the dense model's tokenizer that the pruned one does not have."""
    note = None if dense.folder is None else left_out_note(dense.folder)
    return [] if note is None else [note]
