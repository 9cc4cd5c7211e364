"""The bytes of a file, counted before it is written."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab import FlabOptimizer, FlabPrunerConfig
from optimum_flab.checkpoints.hashes import dense_hash
from optimum_flab.pruning.components import sizes_of
from optimum_flab.pruning.file_size import FileSize
from optimum_flab.pruning.limits import BELOW, SPARE, shapes_to_compare, size_limits
from optimum_flab.pruning.vocabulary import counted_tokens
from optimum_flab.records.plan import PruningPlan
from optimum_flab.settings.components import VocabularySettings
from optimum_flab.settings.export import OWN_TYPES, QUANTISED_TYPES, ExportSettings
from optimum_flab.sizes import Shape
from optimum_flab.utils.errors import ConfigurationError
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
    return lambda size: resize(*arguments, size, found.used), kept_first(*arguments, found.used)


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
@settings(max_examples=5, deadline=None)
def test_the_file_of_any_shape_has_the_bytes_that_were_counted(
    counted, optimizers, tmp_path_factory, family, kind, vocab, layers, width
):
    (keep, order), optimizer, folder = counted, optimizers[family], tmp_path_factory.mktemp("written")
    optimizer.apply(plan_of(optimizer, keep(vocab), layers, 8 * width))
    optimizer.save_pretrained(folder / "model")
    file = folder / "model" / "model.safetensors"
    if kind is not None:
        file = folder / "model.gguf"
        FlabOptimizer.from_pretrained(folder / "model").export_gguf(file, ExportSettings(type=kind))
    size = size_of(optimizer, kind, order)(Shape(vocab=vocab, layer=layers, neuron=8 * width, head=2))
    assert file.stat().st_size == size


@pytest.fixture(scope="module")
def files(optimizers, counted):
    return {family: size_of(optimizer, "f16", counted[1]) for family, optimizer in optimizers.items()}


def shapes_within(file_size, target, **sections):
    model, family = file_size.model, file_size.family
    config = FlabPrunerConfig(target_size=target, target_type=file_size.kind, ffn={"multiple_of": 8}, **sections)
    limits = size_limits(config, sizes_of(model, family), ROWS, file_size)
    return [shape for row in shapes_to_compare(config, limits, 450, 300) for shape in row]


@given(
    family=st.sampled_from(FAMILIES),
    kind=st.sampled_from([None, *OWN_TYPES, *QUANTISED_TYPES]),
    share=st.floats(0.2, 0.99),
)
@settings(max_examples=30, deadline=None)
def test_no_shape_is_above_its_target_and_none_far_below(files, family, kind, share):
    file_size = files[family].changed(kind=kind)
    dense = sizes_of(file_size.model, file_size.family).shape
    target = int(share * file_size(dense)) + SPARE
    spare, row = SPARE * (kind is not None), file_size(dense) - file_size(dense.resized(vocab=ROWS - 1))
    for wide in (True, False):
        try:
            shapes = shapes_within(file_size, target, vocabulary={"enabled": wide})
        except ConfigurationError as error:
            assert "of the smallest model possible" in str(error) or "of the dense model" in str(error)
            continue
        taken = [file_size(shape) + spare for shape in shapes]
        assert max(taken) <= target
        assert not wide or min(taken) >= (1 - BELOW) * target - row


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("30KB", r"30KB as q4_k_m is less than the 0\.\d+ MB of the smallest model .*1 layers, 8 neurons of the FFNs"),
        ("1GB", r"1GB as q4_k_m is more than the 0\.\d MB of the dense model"),
    ],
)
def test_a_size_that_no_model_needs_or_has_is_refused(files, target, fault):
    with pytest.raises(ConfigurationError, match=fault):
        shapes_within(files["llama"].changed(kind="q4_k_m"), target)


def test_what_does_not_fit_the_blocks_of_a_type_is_said(files):
    of_kind = files["llama"].changed(kind="q4_k_m")
    shape = sizes_of(of_kind.model, of_kind.family).shape
    (note,) = of_kind.fallbacks(shape)
    assert "are not a multiple of 256 weights; they are stored in Q5_0, Q8_0 in place of Q4_K, Q6_K" in note
    assert not of_kind.changed(kind="q8_0").fallbacks(shape) and not of_kind.changed(kind=None).fallbacks(shape)
