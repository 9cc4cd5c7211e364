"""`flab_report.json`: what was removed and what it cost, measured on held-out text."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.hashes import weights_hash
from ..checkpoints.loading import LoadedModel
from ..checkpoints.surgery import cast_by_layer
from ..components import COMPONENTS
from ..errors import FlabError
from ..families import Family
from ..measuring.divergence import (
    LayerStep,
    OutputHead,
    bits_and_lost_mass,
    final_hidden,
    mean_divergence,
    predicting,
    total_bits,
)
from ..progress import progress
from ..pruning.budget import count_parameters, shape_of
from ..settings.pruning import DataSettings
from ..texts.packing import PackedTokens, pack
from ..vocabulary import special_ids, token_lists
from .plan import PruningPlan


REPORT_NAME = "flab_report.json"
PACKAGES = ("optimum-flab", "torch", "transformers", "tokenizers", "optimum", "accelerate")


@dataclass(frozen=True)
class HeldOut:
    """What pruning cost on held-out text.

    Args:
        divergence (`float`): mean KL(dense ‖ pruned) in nats per token, over the kept vocabulary, on the pruned
            tokenizer's pieces.
        positions (`int`): tokens that this is the mean of.
        lost_mass (`float`): mean probability that the dense model gives to tokens that are gone.
        dense_bits_per_byte (`float`): each model under its own tokenizer.
        texts_cut_differently (`int`): texts that the two tokenizers cut into different pieces.
    """

    texts: int
    bytes: int
    positions: int
    dense_tokens: int
    pruned_tokens: int
    texts_cut_differently: int
    divergence: float
    lost_mass: float
    dense_bits_per_byte: float
    pruned_bits_per_byte: float


@torch.no_grad()
def measure_held_out(
    dense: PreTrainedModel,
    dense_tokenizer: PreTrainedTokenizerBase,
    pruned: PreTrainedModel,
    pruned_tokenizer: PreTrainedTokenizerBase,
    family: Family,
    kept_tokens: Sequence[int] | None,
    texts: Sequence[str],
    data: DataSettings,
) -> HeldOut:
    """Measures a pruned model against the dense one on texts that decided nothing.

    Args:
        pruned (`PreTrainedModel`): as it will be written; computed on the dense model's device and in its dtype, which
            takes memory there for one layer at a time.
        kept_tokens (`Sequence[int]`, *optional*): dense id of each pruned id; `None`: the same ids.
        texts (`Sequence[str]`): whole texts.
    """
    dense_pieces, pruned_pieces = token_lists(dense_tokenizer, texts), token_lists(pruned_tokenizer, texts)
    rows = pruned.get_input_embeddings().weight.shape[0]
    kept = np.arange(rows) if kept_tokens is None else np.asarray(kept_tokens)
    as_dense = [kept[ids].tolist() for ids in pruned_pieces]
    around = special_ids(pruned_tokenizer)
    around_as_dense = tuple(kept[list(ids)].tolist() for ids in around)
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)

    def packed(pieces: list[list[int]], specials: tuple[Sequence[int], Sequence[int]]) -> PackedTokens:
        return pack(pieces, data.sequence_length, 0, specials=specials)

    own = packed(dense_pieces, special_ids(dense_tokenizer))
    shared, new = packed(as_dense, around_as_dense), packed(pruned_pieces, around)
    full, kept_head = OutputHead(dense, family), OutputHead(dense, family, kept.tolist())
    changed = sum(a != b for a, b in zip(dense_pieces, as_dense, strict=True))
    sides = [(shared, full), (new, kept_head), (new, kept_head), *([(own, full)] if changed else [])]
    steps = sum(len(head.chunks(int(predicting(tokens).sum()))) for tokens, head in sides)
    steps += sum(-(-len(tokens.input_ids) // data.batch_size) for tokens in (shared, new, *([own] if changed else [])))
    with progress("Measuring on held-out text", steps, "step") as tick:

        def read(model: PreTrainedModel, tokens: PackedTokens, layer_step: LayerStep | None = None) -> torch.Tensor:
            return final_hidden(model, family, tokens, data.batch_size, layer_step, tick)

        hidden = read(dense, shared)
        dense_bits, lost = bits_and_lost_mass(hidden, full, shared, kept, tick)
        if changed:
            dense_bits = total_bits(read(dense, own), full, own, tick)
        del full, sides
        measured, layer_step = cast_by_layer(pruned, family, dense.device, dense.dtype)
        pruned_hidden = read(measured, new, layer_step)
        pruned_bits = total_bits(pruned_hidden, OutputHead(measured, family), new, tick)
        pruned_head = OutputHead(measured, family, range(len(kept)))
        divergence = mean_divergence(hidden, pruned_hidden, kept_head, pruned_head, tick)
    return HeldOut(
        texts=len(texts),
        bytes=size,
        positions=len(hidden),
        dense_tokens=sum(map(len, dense_pieces)),
        pruned_tokens=sum(map(len, pruned_pieces)),
        texts_cut_differently=changed,
        divergence=divergence,
        lost_mass=lost,
        dense_bits_per_byte=dense_bits / size,
        pruned_bits_per_byte=pruned_bits / size,
    )


def _side(model: PreTrainedModel, family: Family, dtype: torch.dtype) -> dict[str, Any]:
    counts, shape = count_parameters(model, family), shape_of(model, family)
    total = counts.total(shape)
    return {
        **shape.reported(),
        "parameters": total,
        "bytes": total * dtype.itemsize,
        "dtype": str(dtype).removeprefix("torch."),
        "components": {
            name: {"parameters": number, "bytes": number * dtype.itemsize}
            for name, number in counts.components(shape).items()
        },
    }


def build_report(
    dense: LoadedModel,
    family: Family,
    pruned: PreTrainedModel,
    plan: PruningPlan,
    held_out: HeldOut | None,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """The report as plain values.

    Args:
        held_out ([`HeldOut`], *optional*): `None` where nothing was measured, as when a plan is applied.
        seconds (`dict[str, float]`): wall time per step.
    """
    before = _side(dense.model, family, dense.storage_dtype)
    after = _side(pruned, family, getattr(torch, plan.dtype))
    return {
        "base_model": {"name": dense.name, "revision": dense.revision, "weights_sha256": plan.base_hash},
        "weights_sha256": None if pruned.device.type == "meta" else weights_hash(pruned),
        "dense": before,
        "pruned": after,
        "removed_ratio": 1 - after["parameters"] / before["parameters"],
        "target_ratio": plan.settings.get("target_ratio"),
        "removed_layer_indices": sorted(set(range(before["num_hidden_layers"])) - set(plan.kept_layers)),
        "held_out": None if held_out is None else asdict(held_out),
        "notes": list(dense.notes),
        "seed": plan.settings.get("seed"),
        "computation": {
            "dtype": str(dense.model.dtype).removeprefix("torch."),
            "device": "cpu" if dense.stored is not None else dense.model.device.type,
        },
        "seconds": seconds,
        "versions": {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


def write_report(folder: str | Path, report: dict[str, Any]) -> None:
    """Writes `flab_report.json`."""
    Path(folder, REPORT_NAME).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_report(folder: str | Path) -> dict[str, Any]:
    """What `flab_report.json` says.

    Raises:
        [`FlabError`]: there is none that can be read.
    """
    path = Path(folder, REPORT_NAME)
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FlabError(f"report {str(path)!r} cannot be read ({error}); name the folder of a pruned model") from error
    if not isinstance(report, dict) or "base_model" not in report:
        raise FlabError(f"{str(path)!r} is not the report of a pruning; name the folder of a pruned model")
    return report


def report_summary(report: dict[str, Any]) -> str:
    """The report as a table for the terminal."""
    dense, pruned, held_out = report["dense"], report["pruned"], report["held_out"]
    lines = [
        f"{report['base_model']['name']}: {dense['parameters']:,} -> {pruned['parameters']:,} parameters "
        f"({report['removed_ratio']:.1%} removed), {dense['bytes'] / 1e6:,.0f} -> {pruned['bytes'] / 1e6:,.0f} MB",
        "",
        f"{'':<22}{'dense':>16}{'pruned':>16}",
    ]
    for part in COMPONENTS:
        if part.reported in dense:
            lines.append(f"{part.label:<22}{dense[part.reported]:>16,}{pruned[part.reported]:>16,}")
    for component, before in dense["components"].items():
        after = pruned["components"][component]
        lines.append(f"{component + ' params':<22}{before['parameters']:>16,}{after['parameters']:>16,}")
    if report["removed_layer_indices"]:
        lines.append(f"layers removed: {', '.join(map(str, report['removed_layer_indices']))}")
    if held_out is not None:
        before, after = held_out["dense_bits_per_byte"], held_out["pruned_bits_per_byte"]
        lines += [
            "",
            f"On {held_out['texts']} held-out texts ({held_out['positions']:,} tokens):",
            f"  bits per byte          {before:.4f} -> {after:.4f} ({after / before - 1:+.1%})",
            f"  divergence             {held_out['divergence']:.4f} nats per token, over the vocabulary that is left",
            f"  dense mass lost        {held_out['lost_mass']:.3%}",
            f"  tokens                 {held_out['dense_tokens']:,} -> {held_out['pruned_tokens']:,} "
            f"({held_out['texts_cut_differently']} texts cut differently)",
        ]
    if recovery := report.get("recovery"):
        before, after = recovery["held_out_before"], recovery["held_out_after"]
        lines += [
            "",
            f"Recovery on {recovery['data']['sequences']:,} sequences ({recovery['data']['tokens']:,} tokens), "
            f"{recovery['training']['best_step']:,} steps:",
            f"  divergence             {before['divergence']:.4f} -> {after['divergence']:.4f}",
            f"  bits per byte          {before['pruned_bits_per_byte']:.4f} -> {after['pruned_bits_per_byte']:.4f}",
            *(f"  note: {note}" for note in recovery["notes"]),
        ]
    if changed := report.get("texts", {}).get("corpus_cut_differently"):
        lines.append(
            f"{changed:,} of {report['texts']['corpus']:,} corpus texts are cut into other pieces than before"
        )
    lines += [f"note: {note}" for note in report["notes"]]
    return "\n".join(lines)
