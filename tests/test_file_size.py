"""The bytes of a file, counted before it is written."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab import FlabOptimizer
from optimum_flab.checkpoints.hashes import dense_hash
from optimum_flab.pruning.file_size import FileSize
from optimum_flab.pruning.vocabulary import counted_tokens
from optimum_flab.records.plan import PruningPlan
from optimum_flab.settings.components import VocabularySettings
from optimum_flab.settings.export import ExportSettings
from optimum_flab.sizes import Shape
from optimum_flab.vocabulary.closure import Vocabulary, kept_first, read_spec, resize
from optimum_flab.vocabulary.usage import count_tokens

from .conftest import LAYERS, TEXTS, WIDTH, byte_level_tokenizer, tiny_model


ROWS = 600
FAMILIES = ("llama", "mistral", "gemma3_text")


@pytest.fixture(scope="module")
def counted():
    """The tokens that stay, by size, and in one order."""
    spec = read_spec(tokenizer := byte_level_tokenizer(ROWS))
    counts = [count_tokens(tokenizer, TEXTS).counts]
    found = counted_tokens(spec, VocabularySettings(keep_merges=0, min_count=2), [], counts)
    arguments = spec, Vocabulary(found.natural, found.protected), found.uses
    return lambda size: resize(*arguments, size, found.used), kept_first(*arguments, found.used), found


@pytest.fixture(scope="module")
def optimizers():
    return {
        family: FlabOptimizer(
            tiny_model(family, vocab_size=ROWS, tie_word_embeddings=family != "llama"),
            byte_level_tokenizer(ROWS),
            output_dtype="bfloat16",
        )
        for family in FAMILIES
    }


def size_of(optimizer, kind, order):
    dense = optimizer.dense
    return FileSize(dense.model, dense.family, dense.tokenizer, torch.bfloat16, kind, "model", order)


def plan_of(optimizer, vocabulary, layers, width):
    neurons = {layer: list(range(width)) for layer in range(layers)}
    kept = {"vocab": vocabulary.tolist(), "layer": list(range(layers)), "neuron": neurons}
    facts = {"base_model": "x", "base_revision": None, "base_hash": dense_hash(optimizer.dense), "corpus_hash": ""}
    return PruningPlan(**facts, vocab_size=len(vocabulary), kept=kept, dtype="bfloat16", settings={}, weights={})


@given(
    family=st.sampled_from(FAMILIES),
    kind=st.sampled_from([None, "f16", "q8_0"]),
    vocab=st.integers(300, ROWS),
    layers=st.integers(1, LAYERS),
    width=st.integers(1, WIDTH // 8),
)
@settings(max_examples=12, deadline=None)
def test_the_file_of_any_shape_has_the_bytes_that_were_counted(
    counted, optimizers, tmp_path_factory, family, kind, vocab, layers, width
):
    keep, order, found = counted
    optimizer, folder = optimizers[family], tmp_path_factory.mktemp("written")
    optimizer.apply(plan_of(optimizer, keep(vocab), layers, 8 * width))
    optimizer.save_pretrained(folder / "model")
    file = folder / "model" / "model.safetensors"
    if kind is not None:
        file = folder / "model.gguf"
        FlabOptimizer.from_pretrained(folder / "model").export_gguf(file, ExportSettings(type=kind))
    size = size_of(optimizer, kind, order)(Shape(vocab=vocab, layer=layers, neuron=8 * width, head=2))
    assert file.stat().st_size == size
