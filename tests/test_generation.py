"""Completions of a batch of prompts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from optimum_flab.running.casting import copy_in
from optimum_flab.running.generation import STEP, RowsAtOnce, new_tokens, with_generation_config

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


def forward_shapes(model, run):
    """Result of a function, and how many rows and columns the model read in each forward pass."""
    shapes = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        return run(), shapes
    finally:
        handle.remove()


def written_by(family, **changes):
    """A tiny model that writes other text for other prompts, and the ids that it writes alone, without an end."""
    tokenizer = byte_level_tokenizer(600)
    model = tiny_model(family, vocab_size=608, initializer_range=0.4, **changes)
    prompts = [[5, 6, 7, 8], [9, 10], [200, 11, 40], [33], [401, 77, 300, 25, 90]]
    config = GenerationConfig(max_new_tokens=150, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    with with_generation_config(model, config):
        alone = [model.generate(input_ids=torch.tensor([row]))[0, len(row) :].tolist() for row in prompts]
    assert len({tuple(row) for row in alone}) == len(prompts)
    return model, tokenizer, prompts, alone


@pytest.fixture(scope="module")
def writer():
    return written_by("qwen2")


@pytest.fixture(scope="module", params=["whole", "sliding"])
def any_writer(request, writer):
    """The cache of the other one forgets what is outside its window."""
    return writer if request.param == "whole" else written_by("mistral", sliding_window=16)


@given(ends=st.sets(st.integers(0, 607), max_size=40), most=st.integers(1, 150))
@settings(max_examples=8, deadline=None)
def test_rows_that_leave_a_batch_change_nothing(any_writer, ends, most):
    model, tokenizer, prompts, alone = any_writer
    ends |= {alone[0][3], alone[1][min(most, 90) - 1]}
    config = GenerationConfig(
        max_new_tokens=most, do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=sorted(ends)
    )
    for found, whole in zip(new_tokens(model, tokenizer, prompts, [], config), alone, strict=True):
        stop = next((at + 1 for at, token in enumerate(whole[:most]) if token in ends), most)
        assert found[:stop] == whole[:stop]
        assert set(found[stop:]) <= {tokenizer.pad_token_id}


def test_rows_leave_a_batch_once_they_have_ended(any_writer):
    model, tokenizer, prompts, alone = any_writer
    # nothing that the others write before their 150th token
    end = next(token for token in alone[0][:60] if not any(token in row for row in alone[1:]))
    left = -(-(alone[0].index(end) + 1) // STEP) * STEP
    config = GenerationConfig(
        max_new_tokens=150, do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=[end]
    )
    found, shapes = forward_shapes(model, lambda: new_tokens(model, tokenizer, prompts, [], config))
    assert [len(row) for row in found] == [left, 150, 150, 150, 150]
    assert shapes == [(5, 5), *[(5, 1)] * (left - 1), *[(4, 1)] * (150 - left)]  # nothing is read twice


def test_a_stop_string_is_found_across_two_steps(writer):
    model, tokenizer, prompts, alone = writer
    config = GenerationConfig(max_new_tokens=150, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    for row, whole in zip(prompts, alone, strict=True):
        stop = tokenizer.decode(whole[62:66])
        written = tokenizer.decode(whole)
        if "\ufffd" in stop or written.index(stop) + len(stop) < len(tokenizer.decode(whole[:65])):
            continue
        (found,) = new_tokens(model, tokenizer, [row], [stop], config)
        assert 64 < len(found) < 70 and found == whole[: len(found)]
        return
    pytest.fail("no text of these tokens is a stop string")


def test_a_beam_search_is_done_in_one_go(writer):
    model, tokenizer, prompts, _ = writer
    config = GenerationConfig(
        max_new_tokens=100, do_sample=False, num_beams=2, pad_token_id=tokenizer.pad_token_id, eos_token_id=[3]
    )
    _, shapes = forward_shapes(model, lambda: new_tokens(model, tokenizer, prompts[:2], [], config))
    assert [shape for shape in shapes if shape[1] > 1] in ([(2, 4)], [(4, 4)])


@given(rows=st.lists(st.integers(), max_size=40), most=st.integers(1, 50), room=st.integers(1, 50))
def test_rows_are_halved_until_there_is_memory_for_them(rows, most, room):
    tried = []

    def work(part, first):
        assert part == rows[first : first + len(part)]
        tried.append(len(part))
        if len(part) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [2 * row for row in part]

    at_once = RowsAtOnce(most)
    assert at_once.run(work, rows) == [2 * row for row in rows]
    assert at_once.run(work, rows) == [2 * row for row in rows]
    too_many = [number for number in tried if number > room]
    assert len(too_many) == len(set(too_many))  # the device is not asked again for what it lacked
    assert not rows or at_once.most >= min(most, (room + 1) // 2)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out"), ValueError("no"), RuntimeError("other")])
def test_what_halving_does_not_mend_is_raised(error):
    def work(part, first):
        raise error

    with pytest.raises(type(error), match=str(error)):
        RowsAtOnce(4).run(work, [1] if isinstance(error, torch.OutOfMemoryError) else [1, 2])
