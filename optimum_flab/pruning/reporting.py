"""Makes the report of a pruning."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import torch
from transformers import PreTrainedModel

from ..checkpoints.hashes import weights_hash
from ..checkpoints.loading import LoadedModel
from ..checkpoints.tokenizer import left_out_note
from ..families import Family
from ..records.base_card import base_card_of
from ..records.ledger import Ledger
from ..records.plan import PruningPlan
from ..records.report import Base, Computation, Part, Report, Side
from ..sizes import count_parameters, shape_of


PACKAGES = ("optimum-flab", "torch", "transformers", "tokenizers", "optimum", "accelerate")


def build_report(
    dense: LoadedModel,
    pruned: PreTrainedModel,
    plan: PruningPlan,
    ledger: Ledger,
    notes: Iterable[str] = (),
    **fields: Any,
) -> Report:
    """The report of a pruning.

    Args:
        dense ([`LoadedModel`]): the dense model.
        pruned (`PreTrainedModel`): as it will be written, or on the meta device.
        ledger ([`Ledger`]): what was spent.
        notes (`Iterable[str]`): what the user should know, besides the notes on the dense model.
        fields: other fields of the [`Report`]: what was measured, and read. Without `weights_sha256` it is computed.
    """
    if "weights_sha256" not in fields:
        fields["weights_sha256"] = None if pruned.device.type == "meta" else weights_hash(pruned)
    layers = len(dense.family.decoder_layers(dense.model))
    before = _side(dense.model, dense.family, dense.storage_dtype)
    after = _side(pruned, dense.family, getattr(torch, plan.dtype))
    left_out = None if dense.folder is None else left_out_note(dense.folder)
    return Report(
        base_model=Base(
            name=dense.name,
            revision=dense.revision,
            weights_sha256=plan.base_hash,
            card=base_card_of(dense.folder, dense.gguf),
        ),
        dense=before,
        pruned=after,
        removed_ratio=1 - after.parameters / before.parameters,
        removed_body_ratio=1 - after.body_parameters / before.body_parameters,
        **{name: plan.settings.get(name) for name in ("target_ratio", "target_size", "target_type")},
        removed_layer_indices=tuple(sorted(set(range(layers)) - set(plan.kept_layers))),
        notes=(*dense.notes, *([] if left_out is None else [left_out]), *notes),
        seed=plan.settings.get("seed"),
        computation=Computation(dtype=str(dense.model.dtype).removeprefix("torch."), device=dense.device.type),
        stages=dict(ledger.stages),
        total=ledger.total,
        versions={"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        **fields,
    )


def _side(model: PreTrainedModel, family: Family, dtype: torch.dtype) -> Side:
    counts, shape = count_parameters(model, family), shape_of(model, family)
    total, parts = counts.total(shape), counts.parts(shape)
    return Side(
        **shape.reported(),
        parameters=total,
        bytes=total * dtype.itemsize,
        dtype=str(dtype).removeprefix("torch."),
        components={name: Part(parameters=size, bytes=size * dtype.itemsize) for name, size in parts.items()},
    )
