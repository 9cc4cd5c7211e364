"""What pruning cost on held-out text, measured against a dense model that need not stay in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..families import Family
from ..progress import progress
from ..records.pieces import Pieces
from ..records.report import HeldOut
from ..running.casting import cast_by_layer
from ..settings.pruning import DataSettings
from ..texts.packing import PackedTokens, pack
from ..vocabulary import special_ids, token_lists
from .divergence import (
    LOGITS_PER_CHUNK,
    OutputHead,
    bits_and_lost_mass,
    final_hidden,
    mean_divergence,
    predicting,
    total_bits,
)


Tick = Callable[[], None]


@dataclass(frozen=True)
class CutTexts:
    """Texts in the pieces of both tokenizers.

    Args:
        kept (`np.ndarray`): int64 of shape `(pruned tokens,)`, the dense id of each pruned id.
        own ([`PackedTokens`]): in the dense tokenizer's pieces.
        shared ([`PackedTokens`]): in the pruned tokenizer's pieces, as dense ids.
        new ([`PackedTokens`]): in the pruned tokenizer's pieces, as its own ids.
        texts (`int`): how many there are.
        bytes (`int`): their size in UTF-8.
        dense_tokens, pruned_tokens (`int`): pieces.
        changed (`int`): texts that the two tokenizers cut into different pieces.
    """

    kept: np.ndarray
    own: PackedTokens
    shared: PackedTokens
    new: PackedTokens
    texts: int
    bytes: int
    dense_tokens: int
    pruned_tokens: int
    changed: int


def cut_texts(
    dense_tokenizer: PreTrainedTokenizerBase,
    pruned_tokenizer: PreTrainedTokenizerBase,
    kept_tokens: Sequence[int] | None,
    rows: int,
    texts: Sequence[str],
    sequence_length: int,
) -> CutTexts:
    """Cuts texts with both tokenizers.

    Args:
        kept_tokens (`Sequence[int]`, *optional*): dense id of each pruned id; `None`: the same ids.
        rows (`int`): rows of the pruned embedding.
        texts (`Sequence[str]`): whole texts.
        sequence_length (`int`): tokens of a packed sequence.
    """
    dense_pieces, pruned_pieces = token_lists(dense_tokenizer, texts), token_lists(pruned_tokenizer, texts)
    kept = np.arange(rows) if kept_tokens is None else np.asarray(kept_tokens)
    as_dense = [kept[ids].tolist() for ids in pruned_pieces]
    before, after = special_ids(pruned_tokenizer)

    def packed(pieces: list[list[int]], specials: tuple[Sequence[int], Sequence[int]]) -> PackedTokens:
        return pack(pieces, sequence_length, 0, specials=specials)

    return CutTexts(
        kept=kept,
        own=packed(dense_pieces, special_ids(dense_tokenizer)),
        shared=packed(as_dense, (kept[list(before)].tolist(), kept[list(after)].tolist())),
        new=packed(pruned_pieces, (before, after)),
        texts=len(texts),
        bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text in texts),
        dense_tokens=sum(map(len, dense_pieces)),
        pruned_tokens=sum(map(len, pruned_pieces)),
        changed=sum(a != b for a, b in zip(dense_pieces, as_dense, strict=True)),
    )


class DenseSide:
    """What the dense model says about some texts: hidden states and the kept rows of its head, not the model.

    Args:
        dense (`PreTrainedModel`): the dense model, in the dtype to measure in.
        texts ([`CutTexts`]): texts that decided nothing.
        batch_size (`int`): sequences per forward pass.
        tick (`Callable`): called after every step, see [`steps`].
        pieces ([`Pieces`], *optional*): keeps hidden states, for a run that is interrupted.
    """

    @torch.no_grad()
    def __init__(
        self,
        dense: PreTrainedModel,
        family: Family,
        texts: CutTexts,
        batch_size: int,
        tick: Tick = lambda: None,
        pieces: Pieces | None = None,
    ):
        pieces = Pieces() if pieces is None else pieces
        self.family, self.texts, self.batch_size = family, texts, batch_size
        self.device, self.dtype = dense.device, dense.dtype
        full = OutputHead(dense, family)
        shared = pieces.part("dense-shared")
        self.hidden = final_hidden(dense, family, texts.shared, batch_size, tick=tick, pieces=shared)
        self.bits, self.lost_mass = bits_and_lost_mass(self.hidden, full, texts.shared, texts.kept.tolist(), tick)
        if texts.changed:
            own_pieces = pieces.part("dense-own")
            own = final_hidden(dense, family, texts.own, batch_size, tick=tick, pieces=own_pieces)
            self.bits = total_bits(own, full, texts.own, tick)
        self.head = OutputHead(dense, family, texts.kept.tolist())

    @torch.no_grad()
    def measure(self, pruned: PreTrainedModel, tick: Tick = lambda: None, pieces: Pieces | None = None) -> HeldOut:
        """What a pruned model costs on the texts.

        Args:
            pruned (`PreTrainedModel`): as it will be written; computed on the dense model's device and in its dtype,
                which takes memory there for one layer at a time.
            pieces ([`Pieces`], *optional*): keeps its hidden states, for a run that is interrupted.
        """
        texts = self.texts
        model, layer_step = cast_by_layer(pruned, self.family, self.device, self.dtype)
        hidden = final_hidden(model, self.family, texts.new, self.batch_size, layer_step, tick, pieces)
        bits = total_bits(hidden, OutputHead(model, self.family), texts.new, tick)
        head = OutputHead(model, self.family, range(len(texts.kept)))
        return HeldOut(
            texts=texts.texts,
            bytes=texts.bytes,
            positions=len(self.hidden),
            dense_tokens=texts.dense_tokens,
            pruned_tokens=texts.pruned_tokens,
            texts_cut_differently=texts.changed,
            divergence=mean_divergence(self.hidden, hidden, self.head, head, tick),
            lost_mass=self.lost_mass,
            dense_bits_per_byte=self.bits / texts.bytes,
            pruned_bits_per_byte=bits / texts.bytes,
        )


def steps(texts: CutTexts, dense_rows: int, batch_size: int) -> int:
    """How often both halves of a measurement call `tick`: once per batch, and per run of positions that is scored.

    Args:
        dense_rows (`int`): rows of the dense model's head.
    """
    read = [texts.shared, texts.new, *([texts.own] if texts.changed else [])]
    new = int(predicting(texts.new).sum())
    scored = [(int(predicting(texts.shared).sum()), dense_rows), (new, len(texts.kept)), (new, len(texts.kept))]
    scored += [(int(predicting(texts.own).sum()), dense_rows)] if texts.changed else []
    batches = sum(-(-len(tokens.input_ids) // batch_size) for tokens in read)
    return batches + sum(-(-positions // max(1, LOGITS_PER_CHUNK // rows)) for positions, rows in scored)


def measure_held_out(
    dense: PreTrainedModel,
    dense_tokenizer: PreTrainedTokenizerBase,
    pruned: PreTrainedModel,
    pruned_tokenizer: PreTrainedTokenizerBase,
    family: Family,
    kept_tokens: Sequence[int] | None,
    texts: Sequence[str],
    data: DataSettings,
    pieces: Pieces | None = None,
) -> HeldOut:
    """Measures a pruned model against the dense one on texts that decided nothing; see [`DenseSide`].

    Args:
        kept_tokens (`Sequence[int]`, *optional*): dense id of each pruned id; `None`: the same ids.
        texts (`Sequence[str]`): whole texts.
        data ([`DataSettings`]): for the length of sequences and their number per forward pass.
        pieces ([`Pieces`], *optional*): keeps hidden states, for a run that is interrupted.
    """
    pieces = Pieces() if pieces is None else pieces
    rows = pruned.get_input_embeddings().weight.shape[0]
    cut = cut_texts(dense_tokenizer, pruned_tokenizer, kept_tokens, rows, texts, data.sequence_length)
    dense_rows = dense.get_submodule(family.modules.output_head).weight.shape[0]
    with progress("Measuring on held-out text", steps(cut, dense_rows, data.batch_size), "step") as tick:
        side = DenseSide(dense, family, cut, data.batch_size, tick, pieces)
        return side.measure(pruned, tick, pieces.part("pruned"))
