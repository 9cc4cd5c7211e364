"""What pruning cost on held-out text, measured against a dense model that need not stay in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..records.held_out import HeldOut, KindCost, LayerDrift, TokenCost
from ..records.pieces import Pieces
from ..running.casting import cast_by_layer
from ..running.layer_pass import LayerPass, layer_piece
from ..settings.pruning import KINDS, NAMED_HELD_OUT
from ..texts.packing import PackedTokens, pack
from ..vocabulary.usage import special_ids, token_lists
from .divergence import (
    OutputHead,
    final_hidden,
    following,
    predicting,
    token_bits_and_lost_mass,
    token_divergences,
)
from .token_kinds import TOKEN_KINDS, token_kinds


@dataclass(frozen=True)
class CutTexts:
    """Texts as tokenised by both tokenizers.

    Args:
        kept (`np.ndarray`): int64 of shape `(pruned tokens,)`, the dense id of each pruned id.
        own ([`PackedTokens`]): those that the two tokenizers tokenise differently, in the dense one's tokens.
        new ([`PackedTokens`]): in the pruned tokenizer's tokens, as its own ids.
        text_of_own, text_of_new (`np.ndarray`): int64, the number of the text that each predicting position of `own`
            and of `new` belongs to.
        predicted (`np.ndarray`): int64, the place in `TOKEN_KINDS` of the token that each predicting position of `new`
            predicts.
        kinds (`tuple[str, ...]`): of each text.
        bytes (`np.ndarray`): int64, of each text in UTF-8.
        dense_tokens, pruned_tokens (`np.ndarray`): int64, tokens of each text.
        differs (`np.ndarray`): bool, whether the two tokenizers tokenise a text differently.
    """

    kept: np.ndarray
    own: PackedTokens
    new: PackedTokens
    text_of_own: np.ndarray
    text_of_new: np.ndarray
    predicted: np.ndarray
    kinds: tuple[str, ...]
    bytes: np.ndarray
    dense_tokens: np.ndarray
    pruned_tokens: np.ndarray
    differs: np.ndarray

    @property
    def shared(self) -> PackedTokens:
        """`new` as dense ids."""
        return replace(self.new, input_ids=torch.from_numpy(self.kept)[self.new.input_ids])


def cut_texts(
    dense_tokenizer: PreTrainedTokenizerBase,
    pruned_tokenizer: PreTrainedTokenizerBase,
    kept_tokens: Sequence[int] | None,
    rows: int,
    texts: Sequence[str],
    sequence_length: int,
    kinds: Sequence[str] = (),
) -> CutTexts:
    """Tokenises texts with both tokenizers.

    Args:
        kept_tokens (`Sequence[int]`, *optional*): dense id of each pruned id; `None`: the same ids.
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
    own_pieces = [dense_pieces[number] for number in differing]

    def packed(pieces: list[list[int]], specials: tuple[Sequence[int], Sequence[int]]) -> PackedTokens:
        return pack(pieces, sequence_length, 0, specials=specials)

    def text_of(pieces: list[list[int]], specials: tuple[Sequence[int], Sequence[int]]) -> np.ndarray:
        # texts of the same lengths are laid out alike; special tokens belong to no text, so they are numbered by the
        # text that they surround
        numbers = [[number] * len(ids) for number, ids in enumerate(pieces, start=1)]
        rows = packed(numbers, ([0] * len(specials[0]), [0] * len(specials[1])))
        chunk = np.cumsum(rows.position_ids.numpy().ravel() == 0) - 1
        numbers_of_chunks = np.zeros(int(chunk.max(initial=-1)) + 1, dtype=np.int64)
        np.maximum.at(numbers_of_chunks, chunk, rows.input_ids.numpy().ravel())
        return numbers_of_chunks[chunk[predicting(rows).numpy().ravel()]] - 1

    own_specials, new_specials = special_ids(dense_tokenizer), special_ids(pruned_tokenizer)
    new = packed(pruned_pieces, new_specials)
    return CutTexts(
        kept=kept,
        own=packed(own_pieces, own_specials),
        new=new,
        text_of_own=differing[text_of(own_pieces, own_specials)],
        text_of_new=text_of(pruned_pieces, new_specials),
        predicted=token_kinds(pruned_tokenizer, following(new).numpy()),
        kinds=tuple(kinds) or ("",) * len(texts),
        bytes=np.array([len(text.encode("utf-8", "surrogatepass")) for text in texts], dtype=np.int64),
        dense_tokens=np.array(list(map(len, dense_pieces)), dtype=np.int64),
        pruned_tokens=np.array(list(map(len, pruned_pieces)), dtype=np.int64),
        differs=differs,
    )


class DenseSide:
    """What the dense model predicts for some texts: hidden states and the kept rows of its head, not the model.

    Args:
        reading ([`LayerPass`]): of the dense model, in the dtype to measure in; it reads the texts whatever its own.
        texts ([`CutTexts`]): texts that decided nothing.
        kept_layers (`Sequence[int]`): the index in the dense model of each layer of the pruned ones, to measure how
            far the residual stream drifts; empty: it is not measured.
    """

    @torch.no_grad()
    def __init__(self, reading: LayerPass, texts: CutTexts, kept_layers: Sequence[int] = ()):
        dense, family, pieces = reading.model, reading.family, reading.pieces
        self.family, self.batch_size, self.processes = family, reading.batch_size, reading.processes
        self.texts, self.kept_layers, self.device, self.dtype = texts, tuple(kept_layers), dense.device, dense.dtype
        full = OutputHead(dense, family)
        self._pieces = pieces.part("dense-shared")
        shared = replace(reading, tokens=texts.shared, pieces=self._pieces)
        doing = "Measuring the dense model on held-out text"
        self.hidden = final_hidden(shared, sampled_layers=self.kept_layers, description=doing)
        kept = texts.kept.tolist()
        bits, lost = token_bits_and_lost_mass(self.hidden, full, texts.shared, kept)
        self.bits, self.lost_mass = self._by_text(bits, texts.text_of_new), self._by_text(lost, texts.text_of_new)
        if texts.differs.any():
            differing = replace(reading, tokens=texts.own, pieces=pieces.part("dense-own"))
            own = final_hidden(differing, description="Measuring the dense model on texts cut differently")
            bits, _ = token_bits_and_lost_mass(own, full, texts.own, range(len(full.weight)))
            self.bits = np.where(texts.differs, self._by_text(bits, texts.text_of_own), self.bits)
        self.head = OutputHead(dense, family, kept)

    def _by_text(self, values: torch.Tensor, text_of: np.ndarray) -> np.ndarray:
        """The sum over the positions of each text."""
        return np.bincount(text_of, weights=values.numpy(), minlength=len(self.texts.kinds))

    @torch.no_grad()
    def measure(self, pruned: PreTrainedModel, pieces: Pieces | None = None) -> HeldOut:
        """What a pruned model costs on the texts.

        Args:
            pruned (`PreTrainedModel`): as it will be written; computed on the dense model's device and in its dtype,
                which takes memory there for one layer at a time.
            pieces ([`Pieces`], *optional*): keeps its hidden states, in case the run is interrupted.
        """
        texts, pieces = self.texts, Pieces() if pieces is None else pieces
        model, step = cast_by_layer(pruned, self.family, self.device, self.dtype)
        reading = LayerPass(
            model, self.family, texts.new, self.batch_size, pieces=pieces, processes=self.processes, step=step
        )
        doing = "Measuring the pruned model on held-out text"
        hidden = final_hidden(reading, sampled_layers=range(len(self.kept_layers)), description=doing)
        whole = OutputHead(model, self.family)
        spent, _ = token_bits_and_lost_mass(hidden, whole, texts.new, range(len(whole.weight)))
        head = OutputHead(model, self.family, range(len(texts.kept)))
        far = token_divergences(self.hidden, hidden, self.head, head)
        bits, divergences = self._by_text(spent, texts.text_of_new), self._by_text(far, texts.text_of_new)
        positions = np.bincount(texts.text_of_new, minlength=len(texts.kinds))

        def cost(chosen: np.ndarray) -> dict[str, Any]:
            there, size = int(positions[chosen].sum()), int(texts.bytes[chosen].sum())
            return {
                "texts": int(chosen.sum()),
                "bytes": size,
                "positions": there,
                "divergence": float(divergences[chosen].sum()) / max(there, 1),
                "dense_bits_per_byte": float(self.bits[chosen].sum()) / max(size, 1),
                "pruned_bits_per_byte": float(bits[chosen].sum()) / max(size, 1),
            }

        kinds = np.array(texts.kinds)
        named = [kind for kind in (NAMED_HELD_OUT, *KINDS) if kind in texts.kinds]
        total = kinds == NAMED_HELD_OUT if NAMED_HELD_OUT in named else np.ones(len(kinds), dtype=bool)
        whole_cost = cost(total)
        return HeldOut(
            **whole_cost,
            dense_tokens=int(texts.dense_tokens[total].sum()),
            pruned_tokens=int(texts.pruned_tokens[total].sum()),
            texts_cut_differently=int(texts.differs[total].sum()),
            lost_mass=float(self.lost_mass[total].sum()) / max(whole_cost["positions"], 1),
            by_kind={kind: KindCost(**cost(kinds == kind)) for kind in named},
            by_token=self._by_token(far, total[texts.text_of_new]),
            by_layer=tuple(
                LayerDrift(layer=layer, drift=drift(self._pieces, layer, pieces, place))
                for place, layer in enumerate(self.kept_layers)
                if self.processes.share(reading.batches)  # a process without texts has kept none
            ),
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


def measure_held_out(
    reading: LayerPass, pruned: PreTrainedModel, texts: CutTexts, kept_layers: Sequence[int] = ()
) -> HeldOut:
    """Measures a pruned model against the dense one on texts that decided nothing.

    Args:
        reading, texts, kept_layers: see [`DenseSide`].
        pruned (`PreTrainedModel`): see [`DenseSide.measure`].
    """
    return DenseSide(reading, texts, kept_layers).measure(pruned, reading.pieces.part("pruned"))
