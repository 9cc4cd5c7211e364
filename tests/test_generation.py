"""Greedy completions of a batch of prompts."""

from __future__ import annotations

import torch
from transformers import GenerationConfig

from optimum_flab.running.casting import copy_in
from optimum_flab.running.generation import new_tokens

from .conftest import byte_level_tokenizer, tiny_model


def test_the_head_of_a_frozen_model_reads_no_strided_view():
    """Torch would copy its weight for every row of the batch."""
    tokenizer = byte_level_tokenizer(600)
    model = tiny_model("qwen2", vocab_size=608, initializer_range=0.1)
    frozen = copy_in(model, torch.device("cpu"), torch.float32)
    read = []
    frozen.get_output_embeddings().register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
    config = GenerationConfig(max_new_tokens=5, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    prompts = [[5, 6, 7, 8], [9, 10]]
    found = new_tokens(frozen, tokenizer, prompts, [], config)
    assert len(read) == 5 and all(hidden.is_contiguous() for hidden in read)
    assert found == new_tokens(model, tokenizer, prompts, [], config)
    before = len(read)
    frozen(torch.tensor(prompts[:1]).repeat(2, 1), logits_to_keep=1)
    assert not read[before].is_contiguous()  # so there is something to mend, and only while tokens are generated
