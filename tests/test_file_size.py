"""The bytes of a file, counted before it is written."""

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab import FlabOptimizer, FlabPrunerConfig
from optimum_flab.checkpoints.hashes import dense_hash
from optimum_flab.export.file_size import SPARE, FileSizes
from optimum_flab.pruning.components import sizes_of
from optimum_flab.pruning.search import shapes_to_compare
from optimum_flab.pruning.vocabulary import TokenChoice, counted_tokens
from optimum_flab.records.plan import PruningPlan
from optimum_flab.settings.components import VocabularySettings
from optimum_flab.settings.export import OWN_TYPES, QUANTISED_TYPES, ExportSettings
from optimum_flab.sizes import Shape
from optimum_flab.utils.errors import ConfigurationError
from optimum_flab.vocabulary.closure import read_spec
from optimum_flab.vocabulary.usage import count_tokens

from .conftest import LAYERS, TEXTS, WIDTH, byte_level_tokenizer, request_for, tiny_model


ROWS = 600
FAMILIES = ("llama", "mistral", "gemma3_text")


@pytest.fixture(scope="module")
def kept():
    """The tokens that stay, by size."""
    spec = read_spec(tokenizer := byte_level_tokenizer(ROWS))
    counts = [count_tokens(tokenizer, TEXTS).counts]
    found = counted_tokens(spec, VocabularySettings(keep_merges=0, min_count=2), [], counts)
    return TokenChoice(tokenizer, "llama", found, spec)


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


def sizes_of_files(optimizer, order=()):
    dense = optimizer.dense
    return FileSizes(dense.model, dense.family, dense.tokenizer, order)


def plan_of(optimizer, vocabulary, layers, width):
    neurons = {layer: list(range(width)) for layer in range(layers)}
    kept = {"vocab": vocabulary.tolist(), "layer": list(range(layers)), "neuron": neurons}
    facts = {"base_model": "x", "base_revision": None, "base_hash": dense_hash(optimizer.dense), "corpus_hash": ""}
    return PruningPlan(**facts, vocab_size=len(vocabulary), kept=kept, dtype="bfloat16", settings={}, weights={})


@given(
    family=st.sampled_from(FAMILIES),
    kind=st.sampled_from(["f16", "q8_0"]),
    vocab=st.integers(300, ROWS),
    layers=st.integers(1, LAYERS),
    width=st.integers(1, WIDTH // 8),
)
@settings(max_examples=5, deadline=None)
def test_the_file_of_any_shape_has_at_most_the_bytes_that_were_counted_and_hardly_fewer(
    kept, optimizers, tmp_path_factory, family, kind, vocab, layers, width
):
    optimizer, folder = optimizers[family], tmp_path_factory.mktemp("written")
    optimizer.apply(plan_of(optimizer, kept(vocab), layers, 8 * width))
    optimizer.save_pretrained(folder / "model")
    file = folder / "model.gguf"
    FlabOptimizer.from_pretrained(folder / "model").export_gguf(file, ExportSettings(type=kind))
    shape = Shape(vocab=vocab, layer=layers, neuron=8 * width)
    counted, written = sizes_of_files(optimizer, kept.order)(shape, kind), file.stat().st_size
    # too much: for what the file says of itself, but nothing for tokens
    assert 0 <= counted - written < SPARE + 512
    assert counted <= sizes_of_files(optimizer)(shape, kind)


@pytest.fixture(scope="module")
def files(optimizers):
    return {family: sizes_of_files(optimizer) for family, optimizer in optimizers.items()}


def shapes_within(optimizer, file_sizes, target, kind, **sections):
    config = FlabPrunerConfig(target_size=target, target_type=kind, ffn={"multiple_of": 8}, **sections)
    sizes = sizes_of(optimizer.dense.model, optimizer.dense.family)
    request = request_for(config, sizes, ROWS, file_sizes=file_sizes)
    return [shape for row in shapes_to_compare(request, 450, 300) for shape in row]


@given(
    family=st.sampled_from(FAMILIES),
    kind=st.sampled_from([*OWN_TYPES, *QUANTISED_TYPES]),
    share=st.floats(0.2, 0.99),
)
@settings(max_examples=30, deadline=None)
def test_no_shape_is_above_its_target_and_none_far_below(optimizers, files, family, kind, share):
    optimizer, file_size = optimizers[family], partial(files[family], kind=kind)
    dense = sizes_of(optimizer.dense.model, optimizer.dense.family).shape
    target = int(share * file_size(dense))
    row = file_size(dense) - file_size(dense.resized(vocab=ROWS - 1))
    for wide in (True, False):
        try:
            shapes = shapes_within(optimizer, files[family], f"{target}B", kind, vocabulary={"enabled": wide})
        except ConfigurationError as error:
            assert "of the smallest model possible" in str(error) or "of the dense model" in str(error)
            continue
        taken = [file_size(shape) for shape in shapes]
        assert max(taken) <= target
        assert not wide or min(taken) >= 0.985 * target - row


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("30KB", r"30KB as q4_k_m is less than the 0\.\d+ MB of the smallest model .*1 layers, 8 neurons of the FFNs"),
        ("1GB", r"1GB is more than the 0\.\d MB of the dense model as q4_k_m"),
    ],
)
def test_a_size_that_no_model_needs_or_has_is_refused(optimizers, files, target, fault):
    with pytest.raises(ConfigurationError, match=fault):
        shapes_within(optimizers["llama"], files["llama"], target, "q4_k_m")
