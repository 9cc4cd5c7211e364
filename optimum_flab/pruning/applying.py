"""Applies a plan to its dense model, and measures what that costs on held-out text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.hashes import dense_hash
from ..checkpoints.loading import LoadedModel
from ..checkpoints.surgery import check_plan, operate
from ..errors import FlabError
from ..hashing import texts_hash
from ..measuring.held_out import measure_held_out
from ..records.held_out import HeldOut
from ..records.plan import PruningPlan
from ..records.work import Stage, WorkFolder
from ..running.processes import Processes
from ..settings.pruning import DataSettings
from ..texts.sources import Document
from .vocabulary import tokenizer_of


FILE = "held_out.json"


def _save(held_out: HeldOut, folder: Path) -> None:
    (folder / FILE).write_text(held_out.model_dump_json(), encoding="utf-8")


def _load(folder: Path) -> HeldOut:
    return HeldOut.model_validate_json((folder / FILE).read_text(encoding="utf-8"))


STAGE = Stage("held-out", _save, _load)


def applied(dense: LoadedModel, plan: PruningPlan) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The pruned model and its tokenizer; the same dense weights produce the same bytes.

    Raises:
        [`FlabError`]: the plan was made for other weights.
    """
    check_plan(dense.model, dense.family, plan)
    found = dense_hash(dense)
    if plan.base_hash != found:
        raise FlabError(
            f"the plan was made for {plan.base_model!r} with weights {plan.base_hash[:12]}…, this model's are"
            f" {found[:12]}…; use the model that the plan names and the `dtype` that it was made with, or prune this"
            " one again"
        )
    tokenizer = dense.tokenizer
    if plan.kept_tokens is not None:
        tokenizer = tokenizer_of(dense.tokenizer, np.array(plan.kept_tokens), dense.model.config.model_type)
    return operate(dense.model, dense.family, plan), tokenizer


def held_out_cost(
    dense: LoadedModel,
    pruned: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    kept_tokens: Sequence[int] | None,
    kept_layers: Sequence[int],
    documents: Sequence[Document],
    data: DataSettings,
    decided_by: Mapping[str, Any],
    work: WorkFolder,
    processes: Processes | None = None,
) -> HeldOut:
    """What pruning cost on texts that played no part in any decision, saved under everything that decides it.

    Args:
        kept_tokens (`Sequence[int]`, *optional*): dense id of each pruned id; `None`: the same ids.
        kept_layers (`Sequence[int]`): dense index of each pruned layer.
        documents (`Sequence[Document]`): held-out text, by kind.
        decided_by (`Mapping[str, Any]`): everything that decided the pruned model.
        processes ([`Processes`], *optional*): those that share the texts. Defaults to this one only.
    """
    texts, kinds = [document.text for document in documents], [document.kind for document in documents]
    return work.made(
        STAGE,
        {**decided_by, "held_out": texts_hash([*kinds, *texts])},
        lambda pieces: measure_held_out(
            dense.model,
            dense.tokenizer,
            *pruned,
            dense.family,
            kept_tokens,
            kept_layers,
            texts,
            data,
            pieces,
            kinds,
            processes,
        ),
    )
