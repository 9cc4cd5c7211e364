"""Held-out text, measured against a dense model that need not stay in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoints.surgery import placed
from ..families import Family
from ..measuring.divergence import OutputHead, bits_and_lost_mass, final_hidden, mean_divergence, total_bits
from ..records.report import HeldOut
from ..texts.packing import pack
from ..vocabulary import special_ids, token_lists


class DenseSide:
    """What the dense model says about some texts: hidden states and the kept rows of its head, not the model.

    Args:
        dense (`PreTrainedModel`): the dense model, in the dtype to measure in.
        tokenizer, pruned_tokenizer (`PreTrainedTokenizerBase`): the dense model's and the pruned one's.
        kept (`Sequence[int]`, *optional*): dense id of each pruned id; `None`: the same ids.
        rows (`int`): rows of the pruned embedding.
        texts (`Sequence[str]`): texts that were not trained on.
    """

    @torch.no_grad()
    def __init__(
        self,
        dense: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pruned_tokenizer: PreTrainedTokenizerBase,
        family: Family,
        kept: Sequence[int] | None,
        rows: int,
        texts: Sequence[str],
        sequence_length: int,
        batch_size: int,
    ):
        own_pieces, pieces = token_lists(tokenizer, texts), token_lists(pruned_tokenizer, texts)
        ids = np.arange(rows) if kept is None else np.asarray(kept)
        as_dense = [ids[piece].tolist() for piece in pieces]
        around = special_ids(pruned_tokenizer)
        around_dense = tuple(ids[list(special)].tolist() for special in around)
        self.family, self.batch_size, self.kept = family, batch_size, ids.tolist()
        self.device, self.dtype = dense.device, dense.dtype
        self.tokens = pack(pieces, sequence_length, 0, specials=around)
        shared = pack(as_dense, sequence_length, 0, specials=around_dense)
        self.hidden = final_hidden(dense, family, shared, batch_size)
        full = OutputHead(dense, family)
        dense_bits, lost = bits_and_lost_mass(self.hidden, full, shared, self.kept)
        changed = sum(a != b for a, b in zip(own_pieces, as_dense, strict=True))
        if changed:
            own = pack(own_pieces, sequence_length, 0, specials=special_ids(tokenizer))
            dense_bits = total_bits(final_hidden(dense, family, own, batch_size), full, own)
        self.head = OutputHead(dense, family, self.kept)
        self.bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        self.fixed = {
            "texts": len(texts),
            "bytes": self.bytes,
            "positions": len(self.hidden),
            "dense_tokens": sum(map(len, own_pieces)),
            "pruned_tokens": sum(map(len, pieces)),
            "texts_cut_differently": changed,
            "lost_mass": lost,
            "dense_bits_per_byte": dense_bits / self.bytes,
        }

    @torch.no_grad()
    def measure(self, pruned: PreTrainedModel) -> HeldOut:
        """What a pruned model costs on the texts."""
        model = placed(pruned, self.device, self.dtype)
        hidden = final_hidden(model, self.family, self.tokens, self.batch_size)
        bits = total_bits(hidden, OutputHead(model, self.family), self.tokens)
        head = OutputHead(model, self.family, range(len(self.kept)))
        return HeldOut(
            divergence=mean_divergence(self.hidden, hidden, self.head, head),
            pruned_bits_per_byte=bits / self.bytes,
            **self.fixed,
        )
