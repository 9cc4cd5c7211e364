"""What rounding to GGUF types costs: files are written, read back, and measured on validation text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..checkpoints.loading import LoadedModel
from ..checkpoints.surgery import operate
from ..export import export_gguf
from ..export.gguf_weights import dequantised
from ..export.quantiser import find_quantiser, quantiser_identity
from ..measuring.divergence import OutputHead, final_hidden, mean_divergence, predicting
from ..records.plan import PruningPlan
from ..records.report import TriedType
from ..records.work import json_stage
from ..running.casting import cast_by_layer
from ..running.layer_pass import LayerPass
from ..settings.export import OWN_TYPES, TYPES, ExportSettings
from ..sizes import Shape
from ..utils.hashing import digest_of
from .inputs import PruningInputs


BELOW, ABOVE = 3, 8  # types to compare whose file of the whole body is small enough, the largest, and the next larger
TRIAL_TOKENS = 2048  # of validation text that types are compared on


def types_here() -> tuple[str, ...]:
    """The GGUF types that this machine can make."""
    return OWN_TYPES if find_quantiser() is None else TYPES


def types_near(sizes: Mapping[str, int], budget: int) -> list[str]:
    """The types worth comparing, from the best that needs no pruning: the more bits the less is lost to rounding, and
    the more must be pruned.

    Args:
        sizes (`Mapping[str, int]`): by type, the bytes of a file with the whole body.
        budget (`int`): bytes that the file must not exceed.
    """
    ascending = sorted(sizes, key=lambda kind: (sizes[kind], kind))
    fits = [kind for kind in ascending if sizes[kind] <= budget]
    return [*fits[: -BELOW - 1 : -1], *ascending[len(fits) :][:ABOVE]]


class FileTrial:
    """A pruned model as GGUF files, measured against the dense model on validation text, over the tokens that stay.

    Args:
        inputs ([`PruningInputs`]): the dense model and the texts.
        plan ([`PruningPlan`]): of the pruned model.
        folder (`Path`): for the files, which are removed once they are measured, but for the importance matrix.
        tokens (`int`, *optional*): of the text that is read. Defaults to all of it.
    """

    def __init__(self, inputs: PruningInputs, plan: PruningPlan, folder: Path, tokens: int | None = None):
        self.inputs, self.plan = inputs, plan
        dense, data = inputs.dense, inputs.request.config.data
        rows = dense.model.get_input_embeddings().weight.shape[0]
        self.kept = np.arange(rows) if plan.kept_tokens is None else np.array(plan.kept_tokens)
        text = inputs.tokens.packed(self.kept, inputs.texts.validation, data.sequence_length)
        self.positions = int(predicting(text).sum())
        self.bytes = sum(len(document.text.encode("utf-8")) for document in inputs.texts.validation)
        self.text = text if tokens is None else text.rows(0, -(-tokens // data.sequence_length))
        self._folder = folder
        self._matrix: Path | None = None

    @cached_property
    def model(self) -> LoadedModel:
        """The pruned model, in the dtype of the computation, which the text of the importance matrix goes through."""
        inputs = self.inputs
        plan = replace(self.plan, dtype=str(inputs.dense.model.dtype).removeprefix("torch."))
        pruned = operate(inputs.dense.model, inputs.dense.family, plan, inputs.run.workspace)
        tokenizer = inputs.tokens.of_plan(self.plan.kept_tokens)
        return replace(
            inputs.dense,
            model=pruned,
            tokenizer=tokenizer,
            storage_dtype=inputs.request.dtype,
            gguf=None,
            notes=[],
            computed_on=inputs.dense.device,
        )

    @cached_property
    def _dense(self) -> tuple[torch.Tensor, OutputHead]:
        dense = self.inputs.dense
        hidden = final_hidden(self._reading(dense, dense.model), description="Reading with the dense model")
        return hidden, OutputHead(dense.model, dense.family, self.kept)

    def _reading(self, dense: LoadedModel, model: torch.nn.Module) -> LayerPass:
        run, batch_size = self.inputs.run, self.inputs.request.config.data.batch_size
        return LayerPass(model, dense.family, self.text, batch_size, workspace=run.workspace)

    def __call__(self, kind: str) -> TriedType:
        """What a file of this type costs."""
        dense = self.inputs.dense
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{kind}.gguf"
        settings, data = ExportSettings(type=kind, overwrite=True), self.inputs.request.config.data
        exported = export_gguf(self.model, path, settings, data, self._matrix)
        self._matrix = exported.matrix or self._matrix
        stored = dequantised(self.model, path, dense.model.dtype, self.inputs.run.workspace)
        model, step = cast_by_layer(stored, dense.family, dense.device, dense.model.dtype)
        size = path.stat().st_size
        ids = torch.from_numpy(np.searchsorted(self.kept, self.text.input_ids.numpy()))
        reading = replace(self._reading(dense, model), tokens=replace(self.text, input_ids=ids), step=step)
        hidden = final_hidden(reading, description=f"Measuring {kind}")
        path.unlink()
        ours, head = self._dense
        far = mean_divergence(ours, hidden, head, OutputHead(model, dense.family, range(len(self.kept))))
        bits = far * self.positions / math.log(2) / self.bytes
        return TriedType(file_type=kind, bytes=size, divergence=far, bits_per_byte=bits)


class Rounding:
    """What rounding to types costs, measured on a model of which only the vocabulary was pruned, when it is first
    asked. It is the same whatever the budget, and saved for runs with another one.

    Args:
        inputs ([`PruningInputs`]): the dense model and the texts.
        shape ([`Shape`]): with the whole body.
        folder (`Path`): for the files.

    Attributes:
        tried (`dict[str, TriedType]`): what was measured.
    """

    def __init__(self, inputs: PruningInputs, shape: Shape, folder: Path):
        self._inputs = inputs
        self._shape = shape
        self._folder = folder
        self.tried = dict[str, TriedType]()

    @cached_property
    def _trial(self) -> FileTrial:
        inputs, kept = self._inputs, self._inputs.tokens(self._shape["vocab"])
        layers = list(range(len(inputs.dense.family.decoder_layers(inputs.dense.model))))
        plan = PruningPlan(
            base_model="",
            base_revision=None,
            base_hash=inputs.weights,
            corpus_hash=inputs.corpus_hash,
            vocab_size=self._shape["vocab"],
            kept={"layer": layers, **({"vocab": kept.tolist()} if inputs.request.config.vocabulary.enabled else {})},
            dtype=str(inputs.request.dtype).removeprefix("torch."),
            settings={},
        )
        return FileTrial(inputs, plan, self._folder, TRIAL_TOKENS)

    @cached_property
    def _decided_by(self) -> dict[str, Any]:
        inputs = self._inputs
        kept = digest_of(inputs.tokens(self._shape["vocab"]).tolist())
        facts = inputs.decided_by(dtype=str(inputs.request.dtype), kept=kept, quantiser=quantiser_identity())
        return {**facts, "settings": facts["settings"]["data"]}

    def __call__(self, kind: str) -> TriedType:
        """What a type costs."""
        if kind not in self.tried:
            stage, work = json_stage(f"type-{kind}", TriedType), self._inputs.run.work
            self.tried[kind] = work.value(stage, self._decided_by, lambda _: self._trial(kind))
        return self.tried[kind]

    def expected(self, kind: str) -> float:
        """What a type may cost in bits per byte: as measured, or nothing: a smaller type may well lose less, above all
        that to which weights were rounded before."""
        return self.tried[kind].bits_per_byte if kind in self.tried else 0.0
