"""What the shape and the plan are decided from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..checkpoints.loading import LoadedModel
from ..records.pieces import Pieces
from ..running.casting import estimates_dtype
from ..running.generation import model_identity
from ..running.layer_pass import LayerPass
from ..running.run import Run
from ..texts.sets import TextSets
from ..utils.hashing import digest_of
from ..vocabulary.infilling import infilling_format
from .components.base import Calibrated
from .request import Request
from .vocabulary import TokenChoice


@dataclass(frozen=True)
class PruningInputs:
    """The model, the request, and the values of the first two stages.

    Args:
        dense ([`LoadedModel`]): with its weights in memory, or mapped.
        weights (`str`): their hash, see [`~checkpoints.hashes.dense_hash`].
        request ([`Request`]): what is requested.
        texts ([`TextSets`]): the texts.
        tokens ([`TokenChoice`]): the tokens that stay at each size.
        run ([`Run`]): where the stages are saved.
    """

    dense: LoadedModel
    weights: str
    request: Request
    texts: TextSets
    tokens: TokenChoice
    run: Run

    @property
    def corpus_hash(self) -> str:
        """Hex SHA-256 of the texts and counts that decided the vocabulary."""
        counts = [file.counts.hash for file in self.request.counts]
        return digest_of([self.texts.corpus_hash, *counts]) if counts else self.texts.corpus_hash

    def calibrated(self, kept: np.ndarray, pieces: Pieces) -> Calibrated:
        """The dense model on the calibration texts, tokenised with the kept tokens."""
        config = self.request.config
        data = config.data
        packed = self.tokens.packed(kept, self.texts.calibration, data.sequence_length, data.tokens)
        reading = LayerPass(
            self.dense.model,
            self.dense.family,
            packed,
            data.batch_size,
            torch.Generator().manual_seed(config.seed),
            pieces=pieces,
            workspace=self.run.workspace,
            processes=self.run.processes,
        )
        gap = infilling_format(self.dense.tokenizer)
        return Calibrated(reading, kept, gap.mark_ids(self.dense.tokenizer) if gap else ())

    def decided_by(self, **later: Any) -> dict[str, Any]:
        """All that decides a stage, in a form that JSON can hold. Texts are identified by their hash; recovery comes
        later and is left out.

        Args:
            later (`Any`): what earlier stages decided.
        """
        dense, request = self.dense, self.request
        settings = request.config.to_dict()
        model = model_identity(dense.model, dense.tokenizer, self.weights)
        elsewhere = {"corpus", "counts", "calibration", "held_out", "held_out_tokens", "validation_tokens", "mix"}
        settings["data"] = {name: value for name, value in settings["data"].items() if name not in elsewhere}
        return {
            "model": {name: model.pop(name) for name in ("weights", "tokenizer")},
            "family": digest_of(dense.family.model_dump(mode="json")),
            "computation": {**model, "estimates": str(estimates_dtype(dense.model.dtype, dense.device))},
            "settings": {name: value for name, value in settings.items() if name != "recovery"},
            "texts": self.texts.deciding_hash,
            "vocabulary": self.tokens.counted.hash,
            # the bytes of the file follow it
            **({"dtype": str(request.dtype)} if request.file_sizes is not None else {}),
            **later,
        }
