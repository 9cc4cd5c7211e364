"""The importance matrix: how large what the matrices of a model multiply is, so that llama.cpp's quantiser rounds with
most care what matters most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ..checkpoints.loading import LoadedModel
from ..measuring.dense_outputs import GAP_MARKS
from ..measuring.divergence import check_finite_layer
from ..running.experts import ExpertWeights, Routed, routed
from ..running.layer_pass import LayerObserver, LayerPass, layer_piece
from ..running.layerwise import recorded
from ..settings.pruning import KINDS, DataSettings
from ..tensors.workspace import Workspace
from ..texts.kinds import ANSWERS
from ..texts.packing import PackedTokens, pack
from ..texts.sets import TextSets, read_text_sets
from ..texts.sources import Document
from ..vocabulary.infilling import infilling_format
from ..vocabulary.usage import special_ids, token_lists
from .weights import GgufPiece


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TOKENS = 4096  # more change nothing that can be measured
SUMS, COUNTS = "in_sum2", "counts"  # what llama.cpp calls the two tensors of a matrix


class InputSquares(LayerObserver):
    """Keeps what llama.cpp calls the importance of a layer's matrices, over the real tokens: by the name of each in
    the layer, the sums of the squares of what it multiplies, `<name>.in_sum2` of shape `(matrices, inputs)`, and the
    number of tokens, `<name>.counts` of shape `(matrices, 1)`; of several matrices there is one for each expert.

    Args:
        weights (`torch.Tensor` of shape `(sequences, length)`): what each token counts.
    """

    def __init__(self, reading: LayerPass, weights: torch.Tensor):
        super().__init__(reading, range(len(reading.layers)), "hidden")
        self.weights = reading.by_batch(weights)

    def observe(self, index: int) -> dict[str, torch.Tensor]:
        """The sums of a layer, by the names that the class states."""
        reading = self.reading
        layer = self.reading.layers[index]
        hidden = self.streams["hidden"]
        paths = [path for path, module in layer.named_modules() if isinstance(module, nn.Linear)]
        has_experts = reading.family.has_experts(layer)
        kept = dict[str, torch.Tensor]()
        for batch, mask in enumerate(reading.masks):
            with ExitStack() as stack:
                runs = stack.enter_context(recorded(layer, *paths))
                given = stack.enter_context(routed(reading.family, layer)) if has_experts else []
                hidden[batch] = reading.batch_through(index, hidden[batch], batch)
            real, weights = mask.flatten(), self.weights[batch].flatten()
            read = [
                (f"{path}.weight", [(weights[real], rows.reshape(len(real), -1)[real])])
                for path, (rows, _) in runs.items()
            ]
            for name, parts in [
                *read,
                *(pair for one in given for pair in self._by_expert(layer, one, real, weights)),
            ]:
                sums = torch.stack([counted @ rows.float().square() for counted, rows in parts]).cpu()
                check_finite_layer(sums.isfinite().all(), index)
                counts = torch.tensor([[float(counted.sum())] for counted, _ in parts])
                for key, value in ((f"{name}.{SUMS}", sums), (f"{name}.{COUNTS}", counts)):
                    kept[key] = kept[key] + value if key in kept else value
        return kept

    def _by_expert(
        self, layer: nn.Module, given: Routed, real: torch.Tensor, weights: torch.Tensor
    ) -> Iterable[tuple[str, list[tuple[torch.Tensor, torch.Tensor]]]]:
        """The names of the tensors of all experts, each with the weights of the tokens of every expert and what the
        tensor multiplies."""
        family = self.reading.family
        experts = ExpertWeights(family, layer, dict(layer.named_parameters()))
        sent = [given.sent_to(expert)[0] & real for expert in range(len(experts))]
        dtype = next(iter(experts.tensors.values())).dtype  # a fast step computes in another
        hidden = [given.hidden[tokens].to(dtype) for tokens in sent]
        for name, tensor in experts.tensors.items():
            if tensor.ndim == 3:
                is_out = name == family.mixture.out
                read = [experts.neurons(*one) for one in enumerate(hidden)] if is_out else hidden
                counted = [weights[tokens] for tokens in sent]
                yield f"{family.mixture.module}.{name}", list(zip(counted, read, strict=True))


def importance_matrix(reading: LayerPass, pieces: Sequence[GgufPiece]) -> dict[str, np.ndarray]:
    """The sums and counts of all matrices in the decoder layers, by their names in llama.cpp's files: embedding and
    output head are quantised without.

    Args:
        reading ([`LayerPass`]): that an [`InputSquares`] has passed.
        pieces (`Sequence[GgufPiece]`): the tensors of the file.
    """
    tensors = dict[str, np.ndarray]()
    for piece in pieces:
        index, name = reading.family.layer_of(piece.source)
        if index is not None and piece.is_matrix:
            for part in (SUMS, COUNTS):
                kept = reading.pieces.finished(layer_piece(index), only=f"{name}.{part}").tensors
                tensors[f"{piece.name}.{part}"] = kept[f"{name}.{part}"].numpy()
    return tensors


def token_weights(tokenizer: PreTrainedTokenizerBase, tokens: PackedTokens) -> torch.Tensor:
    """What each token of a text counts, float32 of shape `(rows, length)`: the marks of an infilling text count
    [`~measuring.dense_outputs.GAP_MARKS`] times, as all that is written into the gap reads them."""
    weights = tokens.mask.float()
    if (gap := infilling_format(tokenizer)) is not None:
        weights[torch.isin(tokens.input_ids, torch.tensor(sorted(gap.mark_ids(tokenizer))))] *= GAP_MARKS
    return weights


def packed_texts(model: LoadedModel, documents: Sequence[Document], data: DataSettings) -> PackedTokens:
    """The first tokens of texts as a model reads them."""
    ids = token_lists(model.tokenizer, [document.text for document in documents])
    return pack(ids, data.sequence_length, 0, TOKENS, special_ids(model.tokenizer))


def export_texts(model: LoadedModel, data: DataSettings) -> TextSets:
    """The texts of an importance matrix, and those that it does not read, to measure with.

    Args:
        data ([`~settings.pruning.DataSettings`]): the sources and kinds of text; the model writes no answers.
    """
    mix = {kind: share for kind, share in data.mix.items() if kind != ANSWERS}
    changes = {"calibration_tokens": TOKENS, "mix": mix if any(mix.values()) else KINDS}
    return read_text_sets(model.tokenizer, data.model_copy(update=changes), 0)


def write_importance_matrix(path: Path, model: LoadedModel, pieces: Sequence[GgufPiece], data: DataSettings) -> None:
    """Measures the importance matrix of a model over calibration text, and writes it.

    Args:
        path (`Path`): the file; where weights cannot be used as they are stored, they are copied beside it meanwhile.
        pieces (`Sequence[GgufPiece]`): the tensors of the model's file.
        data ([`~settings.pruning.DataSettings`]): the sources and kinds of text; the model writes no answers.

    Raises:
        [`FlabError`]: a source cannot be read, there is too little text, or the model produces NaN or infinite values.
    """
    documents = export_texts(model, data).calibration
    workspace = Workspace(None if model.stored is None else path.parent)
    readable = model.with_weights(workspace).on_its_device()
    tokens = packed_texts(model, documents, data)
    reading = LayerPass(readable.model, model.family, tokens, data.batch_size, workspace=workspace)
    reading.run(InputSquares(reading, token_weights(model.tokenizer, tokens)), "Measuring the importance matrix")
    write_matrix(path, importance_matrix(reading, pieces), data.sequence_length)


def write_matrix(path: Path, tensors: Mapping[str, np.ndarray], sequence_length: int) -> None:
    """Writes an importance matrix in llama.cpp's format.

    Args:
        tensors (`Mapping[str, np.ndarray]`): see [`importance_matrix`].
    """
    import gguf

    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["calibration"])
    writer.add_uint32("imatrix.chunk_count", -(-TOKENS // sequence_length))
    writer.add_uint32("imatrix.chunk_size", sequence_length)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
