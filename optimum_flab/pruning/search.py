"""The shape of the pruned model, searched for where there is a choice, and the layers and experts that go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..checkpoints.hashes import dense_hash
from ..checkpoints.loading import LoadedModel
from ..hashing import digest_of
from ..progress import progress
from ..records.pieces import Pieces
from ..records.work import Stage, WorkFolder
from ..running.generation import model_identity
from ..settings.configuration import FlabPrunerConfig
from ..sizes import Shape, shape_of
from ..texts.sets import TextSets
from .choices import Calibrated, ExpertChoice, LayerChoice, NeuronChoice
from .depth import Removal
from .shapes import Candidate, ValidationText, measure_shape, natural_shape, search_shape
from .vocabulary import TokenChoice


@dataclass(frozen=True)
class ChosenShape:
    """What the search found.

    Args:
        shape ([`Shape`]): the sizes.
        removed (`list[Removal]`): the layers that go, in the order of their removal.
        kept_experts (`dict[int, list[int]]`): by layer, the experts that stay, ascending; empty: all.
        candidates (`list[Candidate]`): the shapes that were measured; none where there was no choice.
    """

    shape: Shape
    removed: list[Removal]
    kept_experts: dict[int, list[int]]
    candidates: list[Candidate]

    FILE: ClassVar[str] = "shape.json"

    @property
    def hash(self) -> str:
        """Hex SHA-256 of all of it."""
        return digest_of(self._values())

    def kept_layers(self, number: int) -> list[int]:
        """The layers that stay of this many, ascending."""
        return sorted(set(range(number)) - {removal.layer for removal in self.removed})

    def save(self, folder: Path) -> None:
        """Writes it to a folder."""
        (folder / self.FILE).write_text(json.dumps(self._values(), indent=2), encoding="utf-8")

    def _values(self) -> dict[str, Any]:
        return {
            "shape": dict(self.shape),
            "removed": [asdict(removal) for removal in self.removed],
            "kept_experts": {str(layer): kept for layer, kept in self.kept_experts.items()},
            "candidates": [_values(candidate) for candidate in self.candidates],
        }

    @classmethod
    def load(cls, folder: Path) -> ChosenShape:
        """What [`save`] wrote."""
        values = json.loads((folder / cls.FILE).read_text(encoding="utf-8"))
        return cls(
            Shape(values["shape"]),
            [Removal(**removal) for removal in values["removed"]],
            {int(layer): kept for layer, kept in values["kept_experts"].items()},
            [_candidate(candidate) for candidate in values["candidates"]],
        )


STAGE = Stage("shape", ChosenShape.save, ChosenShape.load)


def chosen_shape(
    dense: LoadedModel,
    config: FlabPrunerConfig,
    texts: TextSets,
    tokens: TokenChoice,
    rows: list[list[Shape]],
    inputs: Mapping[str, Any],
    work: WorkFolder,
) -> ChosenShape:
    """What [`choose_shape`] finds, kept by what decides it.

    Args:
        inputs (`Mapping[str, Any]`): see [`decided_by`].
    """

    def choose(pieces: Pieces) -> ChosenShape:
        return choose_shape(Calibrated.of(dense, config, texts, tokens, tokens.natural, pieces), tokens, texts, rows)

    return work.made(STAGE, inputs, choose)


def decided_by(dense: LoadedModel, config: FlabPrunerConfig, texts: TextSets, tokens: TokenChoice) -> dict[str, Any]:
    """Everything that decides a shape. Texts are known by their hash, and recovery comes later."""
    identity = model_identity(dense.model, dense.tokenizer, dense_hash(dense))
    settings = {name: value for name, value in config.to_dict().items() if name != "recovery"}
    elsewhere = {"corpus", "calibration", "held_out", "held_out_tokens", "validation_tokens"}
    settings["data"] = {name: value for name, value in settings["data"].items() if name not in elsewhere}
    return {
        "model": {name: identity.pop(name) for name in ("weights", "tokenizer")},
        "family": digest_of(dense.family.model_dump(mode="json")),
        "computation": identity,
        "settings": settings,
        "texts": texts.deciding_hash,
        "vocabulary": tokens.hash,
    }


def choose_shape(on: Calibrated, tokens: TokenChoice, texts: TextSets, rows: list[list[Shape]]) -> ChosenShape:
    """Measures the shapes that are worth comparing, and decides which layers and experts go.

    Args:
        on ([`Calibrated`]): the dense model, on the natural vocabulary's pieces.
        tokens ([`TokenChoice`]): the tokens that stay at each size.
        texts ([`TextSets`]): whose validation texts compare.
        rows (`list[list[Shape]]`): see [`~pruning.limits.shapes_to_compare`]; a single shape is taken as it is.
    """
    with closing(LayerChoice(on, tokens.natural)) as layers:
        return _chosen(on, tokens, texts, rows, layers, ExpertChoice(on))


def _chosen(
    on: Calibrated,
    tokens: TokenChoice,
    texts: TextSets,
    rows: list[list[Shape]],
    layers: LayerChoice,
    experts: ExpertChoice,
) -> ChosenShape:
    shape, candidates = natural_shape(rows[0], len(tokens.natural)), list[Candidate]()
    if len(rows) > 1 or len(rows[0]) > 1:
        candidates = _measured(on, rows, shape, texts, tokens, layers, experts)
        shape = min(candidates, key=lambda candidate: candidate.bits_per_byte).shape
    removed = layers.removed(shape["layer"])
    kept_experts = experts(shape.get("expert"))
    chosen = ChosenShape(shape, removed, {}, candidates)
    stay = chosen.kept_layers(on.layers)
    kept = {layer: kept_experts[layer].tolist() for layer in stay if layer in kept_experts}
    return ChosenShape(shape, removed, kept, candidates)


def _measured(
    on: Calibrated,
    rows: list[list[Shape]],
    first: Shape,
    texts: TextSets,
    tokens: TokenChoice,
    layers: LayerChoice,
    experts: ExpertChoice,
) -> list[Candidate]:
    widths = {shape["neuron"] for row in rows for shape in row} - {shape_of(on.model, on.family)["neuron"]}
    neurons, pieces = NeuronChoice(on, sorted(widths)), on.pieces.part("candidates")
    data = on.config.data
    size = sum(len(document.text.encode("utf-8")) for document in texts.validation)
    with progress("Measuring shapes", None, "shape") as tick:

        def measure(shape: Shape) -> Candidate:
            name = "-".join(f"{dimension}{number}" for dimension, number in shape.items())
            if (done := pieces.read(name)) is not None:
                tick()
                return _candidate(done.facts["candidate"])
            removed = [removal.layer for removal in layers.removed(shape["layer"])]
            kept, hidden = tokens(shape["vocab"]), pieces.part(f"{name}-hidden")
            text = ValidationText(kept.tolist(), tokens.packed(kept, texts.validation, data.sequence_length), size)
            kept_experts, narrow = experts(shape.get("expert")), neurons(shape["neuron"])
            candidate = measure_shape(
                on.model, on.family, shape, removed, narrow, text, data.batch_size, kept_experts, hidden
            )
            pieces.write(name, candidate=_values(candidate))
            hidden.clear()
            tick()
            return candidate

        return search_shape(rows, first, measure)


def _values(candidate: Candidate) -> list[object]:
    return [dict(candidate.shape), candidate.divergence, candidate.bits_per_byte]


def _candidate(values: list) -> Candidate:
    shape, divergence, bits_per_byte = values
    return Candidate(Shape(shape), divergence, bits_per_byte)
