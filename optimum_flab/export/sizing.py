"""A file of a size: the format of each matrix, with which all together lose least."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..checkpoints.hashes import dense_hash
from ..checkpoints.loading import LoadedModel
from ..records.pieces import Pieces
from ..records.work import json_stage
from ..running.run import Run
from ..settings.export import ExportSettings
from ..settings.pruning import DataSettings
from ..sizes import shape_of
from ..tensors.workspace import Workspace
from ..utils.errors import ConfigurationError
from ..utils.hashing import texts_hash
from ..utils.places import cache_root
from ..utils.units import parse_bytes
from .allocation import best_mixture
from .file_size import FileSizes
from .importance import export_texts, packed_texts
from .quantiser import quantiser_identity
from .rounding import Sensitivities, sensitivities


STAGE = json_stage("sensitivities", Sensitivities)


def formats_of_size(model: LoadedModel, settings: ExportSettings, data: DataSettings) -> dict[str, str]:
    """The formats of the matrices of a checkpoint's file, by their names in it. What rounding costs is kept for other
    sizes of the same checkpoint.

    Args:
        settings ([`~settings.export.ExportSettings`]): with a size.
        data ([`~settings.pruning.DataSettings`]): the sources and kinds of text; the model writes no answers.

    Raises:
        [`ConfigurationError`]: the smallest formats take more; says which size would do.
        [`FlabError`]: a source cannot be read, there is too little text, or the model produces NaN or infinite values.
    """
    shape = shape_of(model.model, model.family)
    sizes = FileSizes(model.model, model.family, model.tokenizer)
    budget = parse_bytes(settings.target_size or "") or 0
    if (smallest := sizes(shape, None)) > budget:
        raise ConfigurationError(
            f"target_size: {settings.target_size} is less than the {smallest / 1e6:,.1f} MB of this model in the"
            f" smallest formats; {math.ceil(smallest / 1e6):,}MB would do, or prune it to that size:"
            f" `optimum-cli flab prune … --target-size {settings.target_size}`"
        )
    around, matrices = sizes.mixed(shape)
    documents = export_texts(model, data).calibration
    run = Run.in_folder(cache_root("export"))

    def measure(pieces: Pieces) -> Sensitivities:
        workspace = Workspace(None if model.stored is None else pieces.folder)
        readable = model.with_weights(workspace).on_its_device()
        rows = np.arange(shape["vocab"])
        return sensitivities(readable, packed_texts(model, documents, data), rows, data, pieces)

    inputs: dict[str, Any] = {
        "weights": dense_hash(model),
        "texts": texts_hash([document.text for document in documents]),
        "data": [data.sequence_length, data.batch_size],
        "computation": [str(model.model.dtype), str(model.device)],
        "quantiser": quantiser_identity(),
    }
    found = run.stage(STAGE, inputs, measure)
    mixture = best_mixture(matrices, found.losses, budget - around)
    assert mixture is not None  # it was checked
    run.say(f"formats of {len(matrices):,} matrices: rounding is predicted to cost {mixture.loss:.4f} nats per token")
    return mixture.types
