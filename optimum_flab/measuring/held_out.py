"""What pruning cost on held-out text, measured against a dense model that need not stay in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..families import Family
from ..progress import progress
from ..records.held_out import HeldOut, KindCost, LayerDrift, TokenCost
from ..records.pieces import Pieces
from ..running.casting import cast_by_layer
from ..running.layer_pass import LayerPass, layer_piece
from ..running.processes import Processes
from ..settings.pruning import KINDS, NAMED_HELD_OUT, DataSettings
from ..texts.packing import PackedTokens, pack
from ..vocabulary.usage import special_ids, token_lists
from .divergence import (
    LOGITS_PER_CHUNK,
    OutputHead,
    final_hidden,
    following,
    predicting,
    token_bits_and_lost_mass,
    token_divergences,
)
from .token_kinds import TOKEN_KINDS, token_kinds


Tick = Callable[[], None]
STREAM_POSITIONS = 256  # of each layer's stream that are kept, to tell how far the pruned one is from it


@dataclass(frozen=True)
class CutTexts:
    """Texts as tokenised by both tokenizers.

    Args:
        kept (`np.ndarray`): int64 of shape `(pruned tokens,)`, the dense id of each pruned id.
        own ([`PackedTokens`]): those that the two tokenizers tokenise differently, in the dense one's tokens.
        shared ([`PackedTokens`]): in the pruned tokenizer's tokens, as dense ids.
        new ([`PackedTokens`]): in the pruned tokenizer's tokens, as its own ids.
        text_of_own, text_of_new (`np.ndarray`): int64, the number of the text that each predicting position of `own`,
            and of `shared` and `new`, belongs to.
        predicted (`np.ndarray`): int64, the place in `TOKEN_KINDS` of the token that each predicting position of `new`
            predicts.
        kinds (`tuple[str, ...]`): of each text.
        bytes (`np.ndarray`): int64, of each text in UTF-8.
        dense_tokens, pruned_tokens (`np.ndarray`): int64, tokens of each text.
        differs (`np.ndarray`): bool, whether the two tokenizers tokenise a text differently.
    """

    kept: np.ndarray
    own: PackedTokens
    shared: PackedTokens
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
    def changed(self) -> bool:
        """Whether any text is tokenised differently."""
        return bool(self.differs.any())


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
    as_dense = [kept[ids].tolist() for ids in pruned_pieces]
    differs = np.array([a != b for a, b in zip(dense_pieces, as_dense, strict=True)], dtype=bool)
    differing = np.flatnonzero(differs)
    own_pieces = [dense_pieces[number] for number in differing]
    before, after = special_ids(pruned_tokenizer)

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

    own_specials, new_specials = special_ids(dense_tokenizer), (before, after)
    new = packed(pruned_pieces, new_specials)
    return CutTexts(
        kept=kept,
        own=packed(own_pieces, own_specials),
        shared=packed(as_dense, (kept[list(before)].tolist(), kept[list(after)].tolist())),
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
        dense (`PreTrainedModel`): the dense model, in the dtype to measure in.
        texts ([`CutTexts`]): texts that decided nothing.
        batch_size (`int`): sequences per forward pass.
        tick (`Callable`): called after every step, see [`steps`].
        pieces ([`Pieces`], *optional*): keeps hidden states, in case the run is interrupted.
        processes ([`Processes`], *optional*): those that share the texts. Defaults to this one only.
        kept_layers (`Sequence[int]`): the index in the dense model of each layer of the pruned ones, to measure how
            far the residual stream drifts; empty: it is not measured.
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
        processes: Processes | None = None,
        kept_layers: Sequence[int] = (),
    ):
        pieces, self.processes = Pieces() if pieces is None else pieces, processes or Processes()
        self.family, self.texts, self.batch_size, self.kept_layers = family, texts, batch_size, tuple(kept_layers)
        self.device, self.dtype = dense.device, dense.dtype
        full = OutputHead(dense, family)
        shared = pieces.part("dense-shared")
        self._streams = shared.part("sample")
        on_layer = partial(keep_stream, self._streams, self.kept_layers)
        self.hidden = final_hidden(self._reading(dense, texts.shared, tick, shared), on_layer=on_layer)
        kept = texts.kept.tolist()
        bits, lost = token_bits_and_lost_mass(self.hidden, full, texts.shared, kept, tick)
        self.bits, self.lost_mass = self._by_text(bits, texts.text_of_new), self._by_text(lost, texts.text_of_new)
        if texts.changed:
            own = final_hidden(self._reading(dense, texts.own, tick, pieces.part("dense-own")))
            bits, _ = token_bits_and_lost_mass(own, full, texts.own, range(len(full.weight)), tick)
            self.bits = np.where(texts.differs, self._by_text(bits, texts.text_of_own), self.bits)
        self.head = OutputHead(dense, family, kept)

    def _reading(self, model: PreTrainedModel, tokens: PackedTokens, tick: Tick, pieces: Pieces) -> LayerPass:
        return LayerPass(
            model, self.family, tokens, self.batch_size, tick=tick, pieces=pieces, processes=self.processes
        )

    def _by_text(self, values: torch.Tensor, text_of: np.ndarray) -> np.ndarray:
        """The sum over the positions of each text."""
        return np.bincount(text_of, weights=values.numpy(), minlength=len(self.texts.kinds))

    @torch.no_grad()
    def measure(
        self,
        pruned: PreTrainedModel,
        tick: Tick = lambda: None,
        pieces: Pieces | None = None,
    ) -> HeldOut:
        """What a pruned model costs on the texts.

        Args:
            pruned (`PreTrainedModel`): as it will be written; computed on the dense model's device and in its dtype,
                which takes memory there for one layer at a time.
            pieces ([`Pieces`], *optional*): keeps its hidden states, in case the run is interrupted.
        """
        texts, pieces = self.texts, Pieces() if pieces is None else pieces
        model, layer_step = cast_by_layer(pruned, self.family, self.device, self.dtype)
        streams = pieces.part("sample")
        on_layer = partial(keep_stream, streams, range(len(self.kept_layers)))
        hidden = final_hidden(self._reading(model, texts.new, tick, pieces), layer_step, on_layer)
        whole = OutputHead(model, self.family)
        spent, _ = token_bits_and_lost_mass(hidden, whole, texts.new, range(len(whole.weight)), tick)
        head = OutputHead(model, self.family, range(len(texts.kept)))
        far = token_divergences(self.hidden, hidden, self.head, head, tick)
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
        found = cost(total)
        return HeldOut(
            **found,
            dense_tokens=int(texts.dense_tokens[total].sum()),
            pruned_tokens=int(texts.pruned_tokens[total].sum()),
            texts_cut_differently=int(texts.differs[total].sum()),
            lost_mass=float(self.lost_mass[total].sum()) / max(found["positions"], 1),
            by_kind={kind: KindCost(**cost(kinds == kind)) for kind in named},
            by_token=self._by_token(far, total[texts.text_of_new]),
            by_layer=tuple(
                LayerDrift(layer=layer, drift=drift(self._streams, layer, streams, place))
                for place, layer in enumerate(self.kept_layers)
                # a process without texts has none
                if self._streams.is_finished(layer_piece(layer)) and streams.is_finished(layer_piece(place))
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


def keep_stream(pieces: Pieces, layers: Sequence[int], layer: int, hidden: torch.Tensor, tokens: PackedTokens) -> None:
    """Keeps what a layer makes of some positions of a batch, evenly spaced, if it is one of `layers`.

    Args:
        hidden (`torch.Tensor` of shape `(rows, length, hidden)`): after the layer.
        tokens ([`PackedTokens`]): of the batch.
    """
    if layer not in layers:
        return
    states = hidden[predicting(tokens).to(hidden.device)]
    every = -(-len(states) // STREAM_POSITIONS) or 1
    pieces.write(layer_piece(layer), {"stream": states[::every].bfloat16().cpu()})


def drift(dense: Pieces, layer: int, pruned: Pieces, place: int) -> float:
    """How far the residual stream is from the dense one after a layer: the mean over positions of
    |pruned - dense|² / |dense|², of what [`keep_stream`] kept.

    Args:
        layer, place (`int`): index of the layer in the dense and in the pruned model.
    """
    one, other = (
        pieces.finished(layer_piece(index)).tensors["stream"].float()
        for pieces, index in ((dense, layer), (pruned, place))
    )
    far, size = (values.square().sum(dim=-1, dtype=torch.float64) for values in (other - one, one))
    return float((far / size.clamp_min(torch.finfo(torch.float32).tiny)).mean()) if len(one) else 0.0


def steps(texts: CutTexts, dense_rows: int, dense_layers: int, pruned_layers: int) -> int:
    """How often both halves of a measurement call `tick`: once per layer, and per run of positions that is scored.

    Args:
        dense_rows (`int`): rows of the dense model's head.
        dense_layers, pruned_layers (`int`): of the models.
    """
    new = int(predicting(texts.new).sum())
    scored = [(int(predicting(texts.shared).sum()), dense_rows), (new, len(texts.kept)), (new, len(texts.kept))]
    scored += [(int(predicting(texts.own).sum()), dense_rows)] if texts.changed else []
    layers = dense_layers * (1 + texts.changed) + pruned_layers
    return layers + sum(-(-positions // max(1, LOGITS_PER_CHUNK // rows)) for positions, rows in scored)


def measure_held_out(
    dense: PreTrainedModel,
    dense_tokenizer: PreTrainedTokenizerBase,
    pruned: PreTrainedModel,
    pruned_tokenizer: PreTrainedTokenizerBase,
    family: Family,
    kept_tokens: Sequence[int] | None,
    kept_layers: Sequence[int],
    texts: Sequence[str],
    data: DataSettings,
    pieces: Pieces | None = None,
    kinds: Sequence[str] = (),
    processes: Processes | None = None,
) -> HeldOut:
    """Measures a pruned model against the dense one on texts that decided nothing; see [`DenseSide`].

    Args:
        kept_tokens (`Sequence[int]`, *optional*): dense id of each pruned id; `None`: the same ids.
        kept_layers (`Sequence[int]`): dense index of each pruned layer; none: drift is not measured.
        texts (`Sequence[str]`): whole texts.
        data ([`DataSettings`]): for the length of sequences and their number per forward pass.
        pieces ([`Pieces`], *optional*): keeps hidden states, in case the run is interrupted.
        kinds (`Sequence[str]`): of each text, to be measured by kind too; empty: they are of no kind.
        processes ([`Processes`], *optional*): those that share the texts. Defaults to this one only.
    """
    pieces = Pieces() if pieces is None else pieces
    rows = pruned.get_input_embeddings().weight.shape[0]
    cut = cut_texts(dense_tokenizer, pruned_tokenizer, kept_tokens, rows, texts, data.sequence_length, kinds)
    dense_rows = dense.get_submodule(family.modules.output_head).weight.shape[0]
    layers = [len(family.decoder_layers(model)) for model in (dense, pruned)]
    with progress("Measuring on held-out text", steps(cut, dense_rows, *layers), "step") as tick:
        side = DenseSide(dense, family, cut, data.batch_size, tick, pieces, processes, kept_layers)
        return side.measure(pruned, tick, pieces.part("pruned"))
