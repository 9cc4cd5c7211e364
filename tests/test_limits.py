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
    rows = shapes_to_compare(config, sizes, sizes.shape["vocab"], NATURAL, 1)
    return [shape for row in rows for shape in row]


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
    dense = ModelSizes(DENSE, QWEN, {dimension: range(1, size + 1) for dimension, size in DENSE.items()})
    sizes, changes = lite if mixture else dense, {"vocabulary": {"enabled": False}} if fixed else {}
    try:
        assert shapes_for(sizes, target, **changes)
    except ConfigurationError as error:
        nearest = re.search(r"the nearest is (0\.\d+)", str(error))
        if nearest and float(nearest[1]) > 0:
            assert shapes_for(sizes, float(nearest[1]), **changes)


def test_experts_need_a_number_or_a_target(lite):
    with pytest.raises(ConfigurationError, match="nothing says how many experts stay"):
        check_sizes(FlabPrunerConfig(experts={"enabled": True}), lite)
