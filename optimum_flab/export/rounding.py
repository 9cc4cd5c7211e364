"""What rounding each matrix to each format of GGUF files costs, predicted from gradients, so that formats are found
without trying files.

llama.cpp rounds some rows of each matrix to each format. A row's loss in a format is half the squared product of
gradient and rounding error, per token. It is taken as the product of a rate of the row, the mean over formats, and of
the squared error in the format weighted by the importance matrix: that averages out what single products have of
chance, which a choice of the smallest would fall for. A matrix loses the sum over its rows, which are rounded apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..checkpoints.loading import LoadedModel
from ..measuring.divergence import OutputHead
from ..measuring.gradients import LayerGradients, drawn_gradients
from ..records.atomic import write_atomically
from ..records.pieces import Pieces
from ..running.casting import dtypes_of, estimates_dtype, fast_step, layer_tensors, outline_of
from ..running.layer_pass import LayerPass, layer_piece
from ..settings.pruning import DataSettings
from ..tensors.gguf_files import dequantise_rows
from ..tensors.gguf_header import HEAD, read_header
from ..tensors.lazy import own_tensors
from ..texts.packing import PackedTokens
from ..utils.progress import progress
from .allocation import AROUND, FORMATS, formats_of
from .fields import add_field, gguf_facts, model_fields
from .importance import COUNTS, SUMS, InputSquares, importance_matrix, token_weights, write_matrix
from .quantiser import check_library, quantise
from .weights import GgufPiece, gguf_pieces


ROWS = 256  # of a matrix that are rounded; more change nothing that can be measured
LARGEST = 32  # of those, the ones that write most: a single one may write as much as all others, and be lost alone
TOKEN_ROWS = 2048  # of the tokens that the text lacks; those that it has are all rounded


@dataclass(frozen=True)
class Sensitivities:
    """What rounding costs, by matrix and format.

    Args:
        losses (`dict[str, dict[str, float]]`): by the name of a matrix in the file and by format, the divergence that
            is predicted, in nats per token.
        errors (`dict[str, dict[str, float]]`): likewise the squared error of all weights, each weighted by the mean
            square of what it multiplies.
    """

    losses: dict[str, dict[str, float]]
    errors: dict[str, dict[str, float]]


class _Inputs(InputSquares):
    """Keeps what layers read, too, as `input.<batch>`."""

    def observe(self, index: int) -> dict[str, torch.Tensor]:
        before = {f"input.{batch}": states for batch, states in enumerate(self.streams["hidden"])}
        return before | super().observe(index)


class Sample:
    """Rows of the matrices of a model, rounded by llama.cpp to each format.

    Args:
        model ([`LoadedModel`]): with weights that can be read.
        folder (`Path`): for the files.
        tokens (`np.ndarray`): the ids whose rows of embedding and head count.
        seen (`np.ndarray`): those of them that the text has.
        means (`Mapping[str, np.ndarray]`): the importance matrix.
    """

    def __init__(
        self,
        model: LoadedModel,
        folder: Path,
        tokens: np.ndarray,
        seen: np.ndarray,
        means: Mapping[str, np.ndarray],
    ):
        family, config = model.family, model.model.config
        self.tensors = own_tensors(model.model)
        self.pieces = [one for one in gguf_pieces(self.tensors, config, family) if one.is_matrix]
        self.folder = folder
        self._rows = dict[str, tuple[np.ndarray, np.ndarray]]()
        self._tokens, self._seen = tokens, np.isin(tokens, seen)
        self._means = means
        self._fields = {f"{gguf_facts(family).architecture}.{k}": v for k, v in model_fields(config, family).items()}
        self._architecture = gguf_facts(family).architecture

    def importance(self, piece: GgufPiece) -> np.ndarray:
        """The mean squares of what a matrix multiplies, by row, where they are known."""
        if f"{piece.name}.{SUMS}" not in self._means:
            return np.ones(1, np.float32)
        sums, counts = (self._means[f"{piece.name}.{part}"] for part in (SUMS, COUNTS))
        return (sums / np.maximum(counts, 1)).reshape(*piece.shape[:-2], 1, -1)

    def rows(self, piece: GgufPiece) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a matrix that are rounded, and how many each stands for."""
        if piece.name not in self._rows:
            number = TOKEN_ROWS if piece.name in AROUND else ROWS - LARGEST
            first, others = self._parted(piece)
            some = others[np.unique(np.linspace(0, max(len(others) - 1, 0), min(len(others), number)).astype(int))]
            share = len(others) / len(some) if len(some) else 0.0
            counts = np.repeat([1.0, share], [len(first), len(some)])
            self._rows[piece.name] = np.concatenate([first, some]), counts
        return self._rows[piece.name]

    def _parted(self, piece: GgufPiece) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a matrix that are rounded surely, and those of which some are."""
        if piece.name in AROUND:
            return self._tokens[self._seen], self._tokens[~self._seen]
        squares = piece.values(self.tensors) ** 2 * self.importance(piece)
        writes = squares.sum(axis=-1).reshape(-1, piece.shape[-2]).sum(axis=0)
        order = np.argsort(-writes, kind="stable")
        return np.sort(order[:LARGEST]), np.sort(order[LARGEST:])

    def of(self, piece: GgufPiece, tensors: Mapping[str, torch.Tensor]) -> np.ndarray:
        """Those rows of what has the shape of the matrix."""
        return np.ascontiguousarray(piece.values(tensors)[..., self.rows(piece)[0], :])

    def write(self, matrix: Path) -> None:
        """Rounds them to each format that has not been made yet."""
        import gguf

        source = self.folder / "rows.gguf"

        def write_rows(path: Path) -> None:
            writer = gguf.GGUFWriter(path, self._architecture)
            for name, value in self._fields.items():
                add_field(writer, name, value)
            for piece in self.pieces:
                writer.add_tensor(piece.name, self.of(piece, self.tensors))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()

        if not source.exists():
            write_atomically(source, write_rows)
        with progress("Rounding some rows to each format", len(FORMATS), "format") as tick:
            for kind in FORMATS:
                fits = {one.name: kind for one in self.pieces if kind in formats_of(one.name, one.shape[-1])}
                if fits and not self.path(kind).exists():
                    types = {one.name: fits.get(one.name, "F16") for one in self.pieces}
                    write_atomically(self.path(kind), partial(_quantise, source, types, matrix))
                tick()

    def path(self, kind: str) -> Path:
        """The file of a format."""
        return self.folder / f"{kind}.gguf"

    def changes(self, piece: GgufPiece) -> Iterator[tuple[str, np.ndarray]]:
        """What each format that a matrix admits changes its rows by."""
        before = self.of(piece, self.tensors)
        for kind in formats_of(piece.name, piece.shape[-1]):
            if self.path(kind).exists():
                tensor = read_header(self.path(kind)).tensors[piece.name]
                rounded = np.concatenate([rows for _, rows in dequantise_rows(self.path(kind), tensor)])
                yield kind, rounded.reshape(before.shape) - before


def _quantise(source: Path, types: Mapping[str, str], matrix: Path, target: Path) -> None:
    quantise(source, target, "q8_0", matrix, types)


def sensitivities(
    model: LoadedModel, tokens: PackedTokens, kept: np.ndarray, data: DataSettings, pieces: Pieces
) -> Sensitivities:
    """Measures what rounding each matrix to each format costs, in two passes over the layers: one up, one of gradients
    down.

    Args:
        model ([`LoadedModel`]): with weights that can be read.
        tokens ([`PackedTokens`]): calibration text as ids of the model.
        kept (`np.ndarray`): the ids among which the next tokens are drawn.
        pieces ([`Pieces`]): keep what was done, in case the run is interrupted.

    Raises:
        [`FlabError`]: llama.cpp's library is missing or fails, or the model has NaN or infinite activations.
    """
    check_library()
    family = model.family
    outer, step = fast_step(model.model, family)
    reading = LayerPass(outer, family, tokens, data.batch_size, pieces=pieces.part("read"), step=step)
    inputs = _Inputs(reading, token_weights(model.tokenizer, tokens))
    reading.run(inputs, "Measuring what matrices multiply")
    folder = pieces.folder / "rows"
    pieces_of_file = gguf_pieces(own_tensors(model.model), model.model.config, family)
    means = importance_matrix(reading, pieces_of_file)
    sample = Sample(model, folder, kept, tokens.input_ids[tokens.mask].unique().numpy(), means)
    write_atomically(
        folder / "matrix.gguf", partial(write_matrix, tensors=means, sequence_length=data.sequence_length)
    )
    sample.write(folder / "matrix.gguf")

    head = OutputHead(outer, family, kept)
    of_rows, generator = torch.zeros_like(head.weight, dtype=torch.float32), torch.Generator().manual_seed(0)
    draws = reading.by_batch(torch.rand(tokens.mask.shape, generator=generator, dtype=torch.float64))
    top = []
    for states, mask, draw in zip(inputs.streams["hidden"], reading.masks, draws, strict=True):
        gradients = torch.zeros_like(states)
        gradients[mask] = drawn_gradients(reading, states[mask], head, draw[mask], of_rows)
        top.append(gradients)

    def read(index: int) -> list[torch.Tensor]:
        piece = reading.pieces.finished(layer_piece(index), only="input.").tensors
        return [piece[f"input.{batch}"] for batch in range(len(reading.inputs))]

    def price(index: int, gradients: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        own = {family.in_layer(index, name): gradient for name, gradient in gradients.items()}
        return {
            f"{piece.name}:{kind}": torch.tensor(found, dtype=torch.float64)
            for piece in sample.pieces
            if piece.source in own
            for kind, found in _prices(sample, piece, sample.of(piece, own), tokens.tokens)
        }

    down = replace(reading, pieces=pieces.part("gradients"))
    dtypes = dtypes_of(outline_of(outer, estimates_dtype(model.model.dtype, model.device)))
    observer = LayerGradients(down, layer_tensors(outer, family, dtypes=dtypes), read, top, price)
    down.run(observer, "Taking gradients down", range(len(reading.layers))[::-1])
    found = {key: pair for index in observer.layers for key, pair in down.kept(index).items()}
    of_tokens = torch.zeros_like(of_rows)
    embedding = outer.get_input_embeddings().weight[torch.as_tensor(kept)]
    place = torch.from_numpy(np.searchsorted(kept, tokens.input_ids.numpy()).clip(max=len(kept) - 1))
    for gradients, x, mask, ids in zip(
        observer.streams["gradient"], reading.inputs, reading.masks, reading.by_batch(place), strict=True
    ):
        rows = embedding[ids[mask]]
        scale = float((x.hidden[mask].float() * rows.float()).sum() / rows.float().square().sum())
        of_tokens.index_add_(0, ids[mask], scale * gradients[mask].float())
    for piece in sample.pieces:
        if piece.name in AROUND:
            tied = all(one.name != HEAD for one in sample.pieces)
            whole = of_rows if piece.name == HEAD else of_tokens + of_rows if tied else of_tokens
            own_rows = whole[np.searchsorted(kept, sample.rows(piece)[0])].cpu().numpy()
            for kind, pair in _prices(sample, piece, own_rows, tokens.tokens):
                found[f"{piece.name}:{kind}"] = torch.tensor(pair, dtype=torch.float64)
    return _joined({key: (float(pair[0]), float(pair[1])) for key, pair in found.items()})


def _prices(
    sample: Sample, piece: GgufPiece, gradient: np.ndarray, tokens: int
) -> Iterator[tuple[str, tuple[float, float]]]:
    """By format, what a matrix is predicted to cost, and its weighted squared error."""
    counts, importance = sample.rows(piece)[1], sample.importance(piece)
    products, errors = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for kind, change in sample.changes(piece):
        products[kind] = (gradient * change).sum(axis=-1, dtype=np.float64) ** 2 / (2 * tokens)
        errors[kind] = (change**2 * importance).sum(axis=-1, dtype=np.float64)
    rates = np.mean([products[kind] / np.maximum(errors[kind], 1e-30) for kind in products], axis=0)
    for kind, error in errors.items():
        yield kind, (float((rates * error * counts).sum()), float((error * counts).sum()))


def _joined(found: Mapping[str, tuple[float, float]]) -> Sensitivities:
    losses, errors = dict[str, dict[str, float]](), dict[str, dict[str, float]]()
    for key, (loss, error) in found.items():
        name, _, kind = key.rpartition(":")
        losses.setdefault(name, {})[kind] = loss
        errors.setdefault(name, {})[kind] = error
    return Sensitivities(losses, errors)
