"""What a GGUF file costs on held-out text, by the weights that it holds."""

from __future__ import annotations

import math
from collections import Counter

from ..checkpoints.loading import LoadedModel
from ..measuring.held_out import DenseReference, tokenise_both
from ..records.held_out import KindCost
from ..records.report import FileCost
from ..running.layer_pass import LayerPass
from ..settings.pruning import DataSettings
from ..tensors.gguf_header import read_header, type_name
from ..tensors.workspace import Workspace
from .gguf_file import Exported
from .gguf_weights import dequantised
from .importance import export_texts


def file_cost(
    exported: Exported, model: LoadedModel, reference: DenseReference, workspace: Workspace, *, pruned: bool
) -> FileCost:
    """Measures a file that was just written.

    Args:
        model ([`~checkpoints.loading.LoadedModel`]): what it was made from.
        reference ([`~measuring.held_out.DenseReference`]): what is measured against.
        workspace ([`~tensors.workspace.Workspace`]): holds the dequantised weights.
        pruned (`bool`): whether `reference` is of the model that `model` was pruned from, and not of itself.
    """
    first = exported.files[0]
    header = read_header(first.path)
    matrices = [one for one in header.tensors.values() if len(one.shape) > 1 and exported.is_mixture]
    formats = dict[str, Counter[str]]()
    for one in matrices:
        formats.setdefault(one.name.removesuffix(".weight").split(".")[-1], Counter())[one.kind.name] += 1
    weights = sum(math.prod(one.shape) for one in matrices)
    size = sum(one.bytes_per_row * math.prod(one.shape[:-1]) for one in matrices)
    held_out = reference.measure(dequantised(model, first.path, reference.dtype, workspace))
    return FileCost(
        name=first.path.name,
        type="mixture" if exported.is_mixture else type_name(header.fields),
        bytes=sum(file.bytes for file in exported.files),
        sha256=first.sha256,
        against="dense" if pruned else "source",
        cost=KindCost(**{name: getattr(held_out, name) for name in KindCost.model_fields}),
        by_kind=held_out.by_kind,
        formats={kind: dict(sorted(found.items())) for kind, found in formats.items()},
        divergence_99=held_out.divergence_99,
        same_top=held_out.same_top,
        bits_per_weight=8 * size / weights if weights else None,
    )


def own_reference(model: LoadedModel, data: DataSettings, workspace: Workspace) -> DenseReference:
    """What a checkpoint predicts, to measure its own files against.

    Args:
        data ([`~settings.pruning.DataSettings`]): whose held-out text is read.
        workspace ([`~tensors.workspace.Workspace`]): holds weights that cannot be used as they are stored.

    Raises:
        [`FlabError`]: a source cannot be read, there is too little text, or the model produces NaN or infinite values.
    """
    documents = export_texts(model, data).held_out
    readable = model.with_weights(workspace).on_its_device()
    family = model.family
    texts = tokenise_both(
        model.tokenizer,
        model.tokenizer,
        None,
        getattr(model.model.config, family.sizes["vocab"]),
        [document.text for document in documents],
        data.sequence_length,
        [document.kind for document in documents],
    )
    reading = LayerPass(readable.model, family, texts.shared, data.batch_size, workspace=workspace)
    return DenseReference(reading, texts)
