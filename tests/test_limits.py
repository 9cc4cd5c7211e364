"""What the settings ask of the sizes of a model, on the shapes of real ones."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from optimum_flab import FlabPrunerConfig
from optimum_flab.errors import ConfigurationError
from optimum_flab.families import family_for
from optimum_flab.pruning.limits import TOLERANCE, check_sizes, shapes_to_compare
from optimum_flab.pruning.multiples import settled
from optimum_flab.sizes import ModelSizes, sizes_of_config

from .conftest import DENSE, QWEN


NATURAL = 40_000
LITE = CONFIG_MAPPING["deepseek_v2"](  # the sizes of DeepSeek-V2-Lite
    **{"vocab_size": 102_400, "hidden_size": 2048, "intermediate_size": 10944, "num_hidden_layers": 27},
    **{"num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": None, "kv_lora_rank": 512},
    **{"n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 1408},
    **{"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
)


@pytest.fixture(scope="module")
def lite():
    return sizes_of_config(LITE, family_for(LITE))


def shapes_for(sizes, target, **changes):
    config = FlabPrunerConfig(target_ratio=target, **changes)
    check_sizes(config, sizes)
    config = settled(config, sizes.shape)
    rows = shapes_to_compare(config, sizes, sizes.shape["vocab"], NATURAL, 1)
    return [shape for row in rows for shape in row]


def dense_sizes():
    possible = {dimension: range(1, size + 1) for dimension, size in DENSE.items()}
    return ModelSizes(DENSE, QWEN, possible, (14, 2))


def removed(sizes, shape):
    return 1 - sizes.counts.total(shape) / sizes.counts.total(sizes.shape)


def test_the_counts_are_those_of_the_published_model(lite):
    assert lite.counts.total(lite.shape) == 15_706_484_224
    assert lite.counts.components(lite.shape)["other"] == 2048  # the final norm
    assert list(lite.possible["neuron"]) == [8, 16, 32, 64, 88, 128, 176, 256, 352, 704, 1408]
    assert min(lite.possible["expert"]) == 6


@pytest.mark.parametrize("changes", [{}, {"experts": {"enabled": True}}, {"experts": {"num_experts": 56}}])
@pytest.mark.parametrize("target", [0.22, 0.35, 0.45, 0.6])
def test_a_mixture_of_coarse_widths_meets_its_target(lite, target, changes):
    for shape in shapes_for(lite, target, **changes):
        assert removed(lite, shape) == pytest.approx(target, abs=TOLERANCE + 1e-9)
        assert all(size in lite.possible[dimension] for dimension, size in shape.items() if dimension != "vocab")


@given(target=st.floats(0.01, 0.9), fixed=st.booleans(), mixture=st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_is_named_as_nearest_can_be_had(lite, target, fixed, mixture):
    sizes, changes = lite if mixture else dense_sizes(), {"vocabulary": {"enabled": False}} if fixed else {}
    try:
        assert shapes_for(sizes, target, **changes)
    except ConfigurationError as error:
        nearest = re.search(r"the nearest is (0\.\d+)", str(error))
        if nearest and float(nearest[1]) > 0:
            assert shapes_for(sizes, float(nearest[1]), **changes)


def test_experts_need_a_number_or_a_target(lite):
    with pytest.raises(ConfigurationError, match="nothing says how many experts stay"):
        check_sizes(FlabPrunerConfig(experts={"enabled": True}), lite)


# --- multiples ---------------------------------------------------------------------------------------------------


def settled_for(dense, **changes):
    return settled(FlabPrunerConfig(target_ratio=0.3, **changes), dense)


@pytest.mark.parametrize(
    ("width", "multiple"), [(4864, 256), (8960, 256), (2048, 256), (1792, 64), (1536, 64), (4800, 64), (48, 64)]
)
def test_widths_are_multiples_that_k_quants_take_where_there_are_enough_of_them(width, multiple):
    config = settled_for(DENSE.resized(neuron=width))
    assert config.ffn.multiple_of == multiple
    assert settled_for(DENSE.resized(neuron=width), ffn={"multiple_of": 8}).ffn.multiple_of == 8


@pytest.mark.parametrize("vocabulary", [{"enabled": False}, {"size": 40_000}])
@pytest.mark.parametrize("target", [0.22, 0.3, 0.37, 0.45])
def test_a_target_is_met_by_the_width_where_the_vocabulary_cannot_help(vocabulary, target):
    for shape in shapes_for(dense_sizes(), target, vocabulary=vocabulary, layers={"enabled": False}):
        assert removed(dense_sizes(), shape) == pytest.approx(target, abs=TOLERANCE) and shape["neuron"] % 64 == 0


def test_shapes_of_the_default_have_rows_for_k_quants():
    shapes = shapes_for(dense_sizes(), 0.35)
    assert len({shape["neuron"] for shape in shapes}) > 1 and all(shape["neuron"] % 256 == 0 for shape in shapes)


@given(st.integers(1, 14), st.sampled_from([None, 64, 96]), st.sampled_from([None, 32, 100]))
@settings(deadline=None)
def test_what_devices_share_is_settled_once(devices, multiple_of, padded):
    config = settled_for(
        DENSE, align=devices, ffn={"multiple_of": multiple_of}, vocabulary={"pad_to_multiple_of": padded}
    )
    assert config.ffn.multiple_of % (64 * devices) == 0 and config.ffn.multiple_of % (multiple_of or 256) == 0
    assert config.vocabulary.pad_to_multiple_of % (64 * devices) == 0
    assert config.vocabulary.pad_to_multiple_of % (padded or 1) == 0
    assert settled(config, DENSE) == config


@pytest.mark.parametrize("devices", [1, 2, 14])
def test_every_shape_can_be_shared_out_among_devices(devices):
    shapes = shapes_for(dense_sizes(), 0.35, align=devices)
    assert shapes and all(shape[size] % (64 * devices) == 0 for shape in shapes for size in ("vocab", "neuron"))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"align": 4}, "4 devices cannot share 14 attention heads with 2 key-value heads"),
        ({"align": 14, "ffn": {"intermediate_size": 3840}}, "ffn.intermediate_size, 3,840, is none"),
        ({"align": 14, "ffn": {"enabled": False}}, "width of the dense model, 4,864, is none"),
        ({"align": 14, "target_ratio": None}, "width of the dense model, 4,864, is none"),
        ({"align": 14, "vocabulary": {"enabled": False}}, "those of the dense model, 151,936, are none"),
    ],
)
def test_what_devices_cannot_share_is_refused_before_work(changes, fault):
    with pytest.raises(ConfigurationError, match=fault):
        check_sizes(FlabPrunerConfig(**{"target_ratio": 0.35, **changes}), dense_sizes())
