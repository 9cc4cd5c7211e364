"""What pruning cost on held-out text, measured against a dense model that need not stay in memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..records.held_out import HeldOut, KindCost, LayerDrift, TokenCost
from ..records.pieces import Pieces
from ..running.casting import cast_by_layer
from ..running.layer_pass import LayerPass, layer_piece
from ..running.processes import Processes
from ..settings.pruning import KINDS, NAMED_HELD_OUT
from ..texts.packing import PackedTokens, pack
from ..vocabulary.usage import special_ids, token_lists
from .divergence import (
    OutputHead,
    bits_and_lost_mass,
    compared_predictions,
    final_hidden,
    following,
    predicting,
)
from .token_kinds import TOKEN_KINDS, token_kinds


# what a sum over texts is divided by, where a report states a mean
PER = {
    "divergence": "positions",
    "lost_mass": "positions",
    "dense_bits_per_byte": "bytes",
    "pruned_bits_per_byte": "bytes",
}


@dataclass(frozen=True)
class TokenisedTexts:
    """Texts as tokenised by both tokenizers.

    Args:
        kept (`np.ndarray`): int64 of shape `(pruned tokens,)`, the dense id of each pruned id, -1 where there is none.
        own ([`PackedTokens`]): those that the two tokenizers tokenise differently, in the dense one's tokens.
        new ([`PackedTokens`]): in the pruned tokenizer's tokens, as its own ids.
        text_of_own, text_of_new (`np.ndarray`): int64, the number of the text that each predicting position of `own`
            and of `new` belongs to.
        predicted (`np.ndarray`): int64, the place in `TOKEN_KINDS` of the token that each predicting position of `new`
            predicts.
        kinds (`np.ndarray`): str, of each text.
        counts (`dict[str, np.ndarray]`): int64, of each text, by the field of a report that has their sum.
    """

    kept: np.ndarray
    own: PackedTokens
    new: PackedTokens
    text_of_own: np.ndarray
    text_of_new: np.ndarray
    predicted: np.ndarray
    kinds: np.ndarray
    counts: dict[str, np.ndarray]

    @property
    def shared(self) -> PackedTokens:
        """`new` as dense ids."""
        return replace(self.new, input_ids=torch.from_numpy(self.kept.clip(min=0))[self.new.input_ids])

    @property
    def rows(self) -> range | np.ndarray:
        """The pruned ids that the dense model has too."""
        return range(len(self.kept)) if (self.kept >= 0).all() else np.flatnonzero(self.kept >= 0)

    def by_text(self, values: torch.Tensor, text_of: np.ndarray) -> np.ndarray:
        """The sum over the positions of each text."""
        return np.bincount(text_of, weights=values.numpy(), minlength=len(self.kinds))


def tokenise_both(
    dense_tokenizer: PreTrainedTokenizerBase,
    pruned_tokenizer: PreTrainedTokenizerBase,
    kept_tokens: Sequence[int] | None,
    rows: int,
    texts: Sequence[str],
    sequence_length: int,
    kinds: Sequence[str] = (),
) -> TokenisedTexts:
    """Tokenises texts with both tokenizers.

    Args:
        kept_tokens (`Sequence[int]`, *optional*): dense id of each pruned id, -1 where there is none; `None`: the same
            ids.
        rows (`int`): rows of the pruned embedding.
        texts (`Sequence[str]`): whole texts.
        sequence_length (`int`): tokens of a packed sequence.
        kinds (`Sequence[str]`): of each text; empty: they are of no kind.
    """
    dense_pieces, pruned_pieces = token_lists(dense_tokenizer, texts), token_lists(pruned_tokenizer, texts)
    kept = np.arange(rows) if kept_tokens is None else np.asarray(kept_tokens)
    pairs = zip(dense_pieces, pruned_pieces, strict=True)
    differs = np.array([before != kept[after].tolist() for before, after in pairs], dtype=bool)
    differing = np.flatnonzero(differs)

    def packed(pieces: list[list[int]], tokenizer: PreTrainedTokenizerBase) -> tuple[PackedTokens, np.ndarray]:
        before, after = special_ids(tokenizer)
        tokens = pack(pieces, sequence_length, 0, specials=(before, after))
        # texts of the same lengths are laid out alike; special tokens belong to no text, so they are numbered by the
        # text that they surround
        numbers = [[number] * len(ids) for number, ids in enumerate(pieces, start=1)]
        rows = pack(numbers, sequence_length, 0, specials=([0] * len(before), [0] * len(after)))
        is_start = tokens.position_ids.numpy().ravel() == 0
        of_chunks = np.maximum.reduceat(rows.input_ids.numpy().ravel(), np.flatnonzero(is_start)) - 1
        return tokens, of_chunks[np.cumsum(is_start) - 1][predicting(tokens).numpy().ravel()]

    own, text_of_own = packed([dense_pieces[number] for number in differing], dense_tokenizer)
    new, text_of_new = packed(pruned_pieces, pruned_tokenizer)
    counts = {
        "texts": [1] * len(texts),
        "bytes": [len(text.encode("utf-8", "surrogatepass")) for text in texts],
        "positions": np.bincount(text_of_new, minlength=len(texts)),
        "dense_tokens": list(map(len, dense_pieces)),
        "pruned_tokens": list(map(len, pruned_pieces)),
        "texts_cut_differently": differs,
    }
    return TokenisedTexts(
        kept=kept,
        own=own,
        new=new,
        text_of_own=differing[text_of_own],
        text_of_new=text_of_new,
        predicted=token_kinds(pruned_tokenizer, following(new).numpy()),
        kinds=np.array(kinds or [""] * len(texts)),
        counts={name: np.array(values, dtype=np.int64) for name, values in counts.items()},
    )


class DenseReference:
    """What the dense model predicts for some texts: hidden states and the kept rows of its head, not the model.

    Args:
        reading ([`LayerPass`]): of the dense model over `texts.shared`, in the dtype to measure in.
        texts ([`TokenisedTexts`]): texts that decided nothing.
        kept_layers (`Sequence[int]`): the index in the dense model of each layer of the pruned ones, to measure how
            far the residual stream drifts; empty: it is not measured.
    """

    @torch.no_grad()
    def __init__(self, reading: LayerPass, texts: TokenisedTexts, kept_layers: Sequence[int] = ()):
        dense, family = reading.model, reading.family
        self.family = family
        self.batch_size = reading.batch_size
        self.processes = reading.processes
        self.texts = texts
        self.kept_layers = tuple(kept_layers)
        self.device = dense.device
        self.dtype = dense.dtype
        full, kept = OutputHead(dense, family), texts.kept[texts.kept >= 0].tolist()
        self._pieces = reading.pieces.part("dense-shared")
        doing = "Measuring the dense model on held-out text"
        self.hidden = final_hidden(replace(reading, pieces=self._pieces), self.kept_layers, doing)
        spent, lost = bits_and_lost_mass(self.hidden, full, reading.tokens, kept)
        bits, differs = texts.by_text(spent, texts.text_of_new), texts.counts["texts_cut_differently"]
        if differs.any():
            differing = replace(reading, tokens=texts.own, pieces=reading.pieces.part("dense-own"))
            own = final_hidden(differing, description="Measuring the dense model on texts tokenised differently")
            spent, _ = bits_and_lost_mass(own, full, texts.own)
            bits = np.where(differs, texts.by_text(spent, texts.text_of_own), bits)
        lost_mass = texts.by_text(lost, texts.text_of_new)
        self.sums = {**texts.counts, "lost_mass": lost_mass, "dense_bits_per_byte": bits}
        self.head = OutputHead(dense, family, kept)

    def alone(self) -> DenseReference:
        """The same, to measure in this process only and without the drift of layers."""
        other = copy.copy(self)
        other.processes = Processes()
        other.kept_layers = ()
        return other

    @torch.no_grad()
    def measure(self, pruned: PreTrainedModel, pieces: Pieces | None = None) -> HeldOut:
        """What a pruned model costs on the texts.

        Args:
            pruned (`PreTrainedModel`): as it will be written; computed on the dense model's device and in its dtype,
                which takes memory there for one layer at a time.
            pieces ([`Pieces`], *optional*): keeps its hidden states, in case the run is interrupted.
        """
        texts, pieces = self.texts, pieces or Pieces()
        model, step = cast_by_layer(pruned, self.family, self.device, self.dtype)
        reading = LayerPass(
            model, self.family, texts.new, self.batch_size, pieces=pieces, processes=self.processes, step=step
        )
        doing = "Measuring the pruned model on held-out text"
        hidden = final_hidden(reading, range(len(self.kept_layers)), doing)
        spent, _ = bits_and_lost_mass(hidden, OutputHead(model, self.family), texts.new)
        head = OutputHead(model, self.family, texts.rows)
        far, same = compared_predictions(self.hidden, hidden, self.head, head)
        drifts = tuple(
            LayerDrift(layer=layer, drift=drift(self._pieces, layer, pieces, place))
            for place, layer in enumerate(self.kept_layers)
            if self.processes.share(reading.batches)  # a process without texts has kept none
        )
        held_out = self._held_out(far, spent, drifts)
        tops = (
            {"divergence_99": float(far.quantile(0.99)), "same_top": float(same.double().mean())} if len(far) else {}
        )
        return held_out.model_copy(update=tops)

    @torch.no_grad()
    def measure_vocabulary(self) -> HeldOut:
        """What a model costs on the texts that is the dense one but for the tokens that it lacks, without running it:
        its hidden states are the dense model's, and so are its predictions among the tokens that it has."""
        spent, _ = bits_and_lost_mass(self.hidden, self.head, self.texts.new)
        drifts = tuple(LayerDrift(layer=layer, drift=0.0) for layer in self.kept_layers)
        return self._held_out(torch.zeros(len(self.hidden), dtype=torch.float64), spent, drifts)

    def _held_out(self, far: torch.Tensor, spent: torch.Tensor, drifts: tuple[LayerDrift, ...]) -> HeldOut:
        """The costs as a report states them.

        Args:
            far, spent (`torch.Tensor`): float64 of shape `(positions,)`, the divergence and the bits of each.
        """
        texts = self.texts
        sums = {
            **self.sums,
            "divergence": texts.by_text(far, texts.text_of_new),
            "pruned_bits_per_byte": texts.by_text(spent, texts.text_of_new),
        }
        named = [kind for kind in (NAMED_HELD_OUT, *KINDS) if kind in texts.kinds]
        chosen = texts.kinds == NAMED_HELD_OUT if NAMED_HELD_OUT in named else np.ones(len(texts.kinds), dtype=bool)
        kinds = {kind: _costs(sums, texts.kinds == kind) for kind in named}
        return HeldOut(
            **_costs(sums, chosen),
            by_kind={
                kind: KindCost(**{name: costs[name] for name in KindCost.model_fields})
                for kind, costs in kinds.items()
            },
            by_token=self._by_token(far, chosen[texts.text_of_new]),
            by_layer=drifts,
        )

    def _by_token(self, divergences: torch.Tensor, chosen: np.ndarray) -> dict[str, TokenCost]:
        """The mean divergence where a token of each kind is predicted, most frequent first."""
        predicted, values = self.texts.predicted[chosen], divergences.numpy()[chosen]
        numbers = np.bincount(predicted, minlength=len(TOKEN_KINDS))
        sums = np.bincount(predicted, weights=values, minlength=len(TOKEN_KINDS))
        return {
            TOKEN_KINDS[place]: TokenCost(
                positions=int(numbers[place]), divergence=float(sums[place] / numbers[place])
            )
            for place in np.argsort(-numbers, kind="stable")
            if numbers[place]
        }


def _costs(sums: Mapping[str, np.ndarray], chosen: np.ndarray) -> dict[str, Any]:
    """What the chosen texts cost together, by the field of a report; `sums` are of each text."""
    totals = {name: values[chosen].sum().item() for name, values in sums.items()}
    return {name: total / max(totals[PER[name]], 1) if name in PER else total for name, total in totals.items()}


def drift(dense: Pieces, layer: int, pruned: Pieces, place: int) -> float:
    """How far the residual stream is from the dense one after a layer: the mean over positions of
    |pruned - dense|² / |dense|², of what [`~measuring.divergence.StreamSample`] kept.

    Args:
        layer, place (`int`): index of the layer in the dense and in the pruned model.
    """
    one, other = (
        pieces.finished(layer_piece(index)).tensors["stream"].float()
        for pieces, index in ((dense, layer), (pruned, place))
    )
    far, size = (values.square().sum(dim=-1, dtype=torch.float64) for values in (other - one, one))
    return float((far / size.clamp_min(torch.finfo(torch.float32).tiny)).mean()) if len(one) else 0.0
