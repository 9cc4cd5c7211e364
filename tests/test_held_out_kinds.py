"""What pruning cost by kind of text is what it costs when that kind is measured alone."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import TEXTS, byte_level_tokenizer, tiny_model
from tokenizers.processors import TemplateProcessing

from optimum_flab.families import family_for
from optimum_flab.measuring.held_out import measure_held_out
from optimum_flab.settings.pruning import DataSettings


@pytest.mark.parametrize("around", [False, True])
def test_kinds_are_measured_in_one_pass_as_alone(around):
    tokenizer = byte_level_tokenizer()
    if around:  # special tokens before and behind every piece of a text
        number = tokenizer.convert_tokens_to_ids("<|pad|>")
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|pad|> <|pad|> $A <|pad|>", special_tokens=[("<|pad|>", number)]
        )
    dense = tiny_model("llama", vocab_size=len(tokenizer))
    pruned = copy.deepcopy(dense)
    with torch.no_grad():
        for name, weight in pruned.named_parameters():
            if "down_proj" in name:
                weight.mul_(0.5)
    texts, data = TEXTS[:6], DataSettings(sequence_length=48, calibration_tokens=48)
    kinds = ["held-out", "own", "library", "own", "held-out", "library"]

    def measured(chosen, names=()):
        return measure_held_out(
            dense, tokenizer, pruned, tokenizer, family_for(dense.config), None, chosen, data, None, names
        )

    found = measured(texts, kinds)
    assert list(found.by_kind) == ["held-out", "own", "library"] and not measured(texts).by_kind
    for kind, cost in found.by_kind.items():
        alone = measured([text for text, one in zip(texts, kinds, strict=True) if one == kind])
        assert (cost.texts, cost.bytes, cost.positions) == (alone.texts, alone.bytes, alone.positions)
        for name in ("divergence", "dense_bits_per_byte", "pruned_bits_per_byte"):
            assert getattr(cost, name) == pytest.approx(getattr(alone, name), rel=1e-4)
    named = found.by_kind["held-out"]
    assert (found.texts, found.divergence) == (named.texts, named.divergence)
    assert measured(texts, [kind.replace("held-out", "chat") for kind in kinds]).texts == 6
