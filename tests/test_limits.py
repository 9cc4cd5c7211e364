"""What the settings ask of the sizes of a model, on the shapes of real ones."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from optimum_flab import FlabPrunerConfig
from optimum_flab.families import family_for
from optimum_flab.pruning.components import outline, sizes_of
from optimum_flab.pruning.components.neurons import width_multiple
from optimum_flab.pruning.request import Request
from optimum_flab.pruning.resolution import body_notes
from optimum_flab.pruning.search import shapes_to_compare
from optimum_flab.settings.files import read_settings_file
from optimum_flab.settings.pruning import merge_settings
from optimum_flab.sizes import ModelSizes
from optimum_flab.utils.errors import ConfigurationError

from .conftest import DENSE, QWEN, request_for


NATURAL = 40_000
LITE = CONFIG_MAPPING["deepseek_v2"](  # the sizes of DeepSeek-V2-Lite
    **{"vocab_size": 102_400, "hidden_size": 2048, "intermediate_size": 10944, "num_hidden_layers": 27},
    **{"num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": None, "kv_lora_rank": 512},
    **{"n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 1408},
    **{"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
)


@pytest.fixture(scope="module")
def lite():
    return sizes_of(outline(LITE), family_for(LITE))


def shapes_for(sizes, target, **changes):
    config = FlabPrunerConfig(target_ratio=target, **changes)
    rows = shapes_to_compare(request_for(config, sizes), NATURAL, 1)
    return [shape for row in rows for shape in row]


def dense_sizes():
    possible = {dimension: range(1, size + 1) for dimension, size in DENSE.items()}
    return ModelSizes(DENSE, QWEN, possible)


def removed(sizes, shape):
    return 1 - sizes.counts.total(shape) / sizes.counts.total(sizes.shape)


def test_the_counts_are_those_of_the_published_model(lite):
    assert lite.counts.total(lite.shape) == 15_706_484_224
    assert lite.counts.parts(lite.shape)["other"] == 2048  # the final norm
    assert list(lite.possible["neuron"]) == [8, 16, 32, 64, 88, 128, 176, 256, 352, 704, 1408]
    assert min(lite.possible["expert"]) == 6


@pytest.mark.parametrize("changes", [{}, {"experts": {"enabled": True}}, {"num_experts": 56}])
@pytest.mark.parametrize("target", [0.22, 0.35, 0.45, 0.6])
def test_a_mixture_of_coarse_widths_meets_its_target(lite, target, changes):
    for shape in shapes_for(lite, target, **changes):
        assert removed(lite, shape) == pytest.approx(target, abs=0.005 + 1e-9)
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


@pytest.mark.parametrize("miss", [-0.0055, -0.0045, 0.0045, 0.0055])
def test_a_result_misses_its_target_by_half_a_percent_of_the_parameters_at_most(miss):
    sizes, only_layers = dense_sizes(), {"vocabulary": {"enabled": False}, "ffn": {"enabled": False}}
    shape = DENSE.resized(layer=20)  # a layer is 3% of the parameters
    target = removed(sizes, shape) + miss
    if abs(miss) < 0.005:
        assert shapes_for(sizes, target, **only_layers) == [shape]
        return
    with pytest.raises(
        ConfigurationError, match=r"cannot be met within 0\.5% of the parameters; the nearest is 0\.12"
    ):
        shapes_for(sizes, target, **only_layers)


@pytest.mark.parametrize("below", [0.014, 0.016])
def test_a_file_is_at_most_one_and_a_half_percent_below_its_size_where_the_vocabulary_can_help(below):
    sizes, shape = dense_sizes(), DENSE.resized(neuron=2560)  # 256 neurons are 3% of the file, and all tokens stay

    def file_size(shape, kind):
        return 2 * sizes.counts.total(shape)

    target = int(file_size(shape, None) / (1 - below))
    config = FlabPrunerConfig(target_size=target, layers={"enabled": False}, ffn={"multiple_of": 256})
    (shapes,) = shapes_to_compare(request_for(config, sizes, file_sizes=file_size), DENSE["vocab"], 1)
    assert (shape in shapes) is (below < 0.015)
    assert all(target * 0.985 <= file_size(shape, None) <= target for shape in shapes)


@pytest.mark.parametrize(("target", "early", "late"), [(0.5, False, False), (0.6, False, True), (0.7, True, True)])
def test_a_target_that_takes_most_of_the_body_is_warned_of(target, early, late):
    request = request_for(FlabPrunerConfig(target_ratio=target), dense_sizes())
    (first, *_), *_ = shapes_to_compare(request, NATURAL, 1)
    assert bool(body_notes(request)) is early and bool(body_notes(request, first)) is late


def test_experts_need_a_number_or_a_target(lite):
    with pytest.raises(ConfigurationError, match="nothing says how many experts stay"):
        request_for(FlabPrunerConfig(experts={"enabled": True}), lite)


# --- multiples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "multiple"), [(4864, 256), (8960, 256), (2048, 256), (1792, 64), (1536, 64), (4800, 64), (48, 64)]
)
def test_widths_are_multiples_that_k_quants_take_where_there_are_enough_of_them(width, multiple):
    sizes = replace(dense_sizes(), shape=DENSE.resized(neuron=width))
    for changes, expected in (
        ({}, multiple),
        ({"ffn": {"multiple_of": 8}}, 8),
        ({"vocabulary": {"enabled": False}}, 64),
    ):
        assert width_multiple(Request(FlabPrunerConfig(target_ratio=0.3, **changes), sizes, 1)) == expected


@pytest.mark.parametrize("fixed", [{"vocabulary": {"enabled": False}}, {"vocab_size": 40_000}])
@pytest.mark.parametrize("target", [0.22, 0.3, 0.37, 0.45])
def test_a_target_is_met_by_the_width_where_the_vocabulary_cannot_help(fixed, target):
    for shape in shapes_for(dense_sizes(), target, **fixed, layers={"enabled": False}):
        assert removed(dense_sizes(), shape) == pytest.approx(target, abs=0.005) and shape["neuron"] % 64 == 0


def test_shapes_of_the_default_have_rows_for_k_quants():
    shapes = shapes_for(dense_sizes(), 0.35)
    assert len({shape["neuron"] for shape in shapes}) > 1 and all(shape["neuron"] % 256 == 0 for shape in shapes)


def can_be_had(config, sizes, tokens, natural):
    return [shape for row in shapes_to_compare(request_for(config, sizes, tokens), natural, 300) for shape in row]


@given(
    devices=st.sampled_from([1, 2, 4, 8, 14]),
    target=st.floats(0.02, 0.7) | st.none(),
    natural=st.integers(20_000, 100_000),
    unused=st.integers(0, 300),
    multiple_of=st.sampled_from([None, 64, 96]),
    padded=st.sampled_from([None, 32, 100]),
    experts=st.booleans(),
    mixture=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_shape_can_be_shared_out_among_devices(
    lite, devices, target, natural, unused, multiple_of, padded, experts, mixture
):
    sizes = lite if mixture else dense_sizes()
    vocabulary, unit, tokens = {"pad_to_multiple_of": padded}, 64 * devices, sizes.shape["vocab"] - unused
    experts = {"enabled": experts and mixture and target is not None}
    try:
        config = FlabPrunerConfig(
            target_ratio=target,
            align=devices,
            vocabulary=vocabulary,
            ffn={"multiple_of": multiple_of},
            experts=experts,
        )
        shapes = can_be_had(config, sizes, tokens, min(natural, tokens))
    except ConfigurationError:
        return
    assert shapes and all(shape[size] % unit == 0 for shape in shapes for size in ("vocab", "neuron"))
    for shape in shapes:
        assert shape["neuron"] % (multiple_of or 1) == 0 or shape["neuron"] == sizes.shape["neuron"]
        # the tokens of a plan, padded, are as many rows as the shape has
        rows, multiple = shape["vocab"], math.lcm(unit, padded or 1)
        assert -(-min(rows, tokens) // multiple) * multiple == rows <= sizes.shape["vocab"]


@pytest.mark.parametrize("devices", [1, 2, 14])
@pytest.mark.parametrize("target", [0.1, 0.35, 0.5])
def test_a_model_for_several_devices_meets_its_target(devices, target):
    for shape in shapes_for(dense_sizes(), target, align=devices):
        assert removed(dense_sizes(), shape) == pytest.approx(target, abs=0.005)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"align": 14, "intermediate_size": 3840}, "intermediate_size: 3,840 is not a multiple of what"),
        ({"align": 14, "ffn": {"enabled": False}}, "intermediate_size: 4,864 is not"),
        ({"align": 14, "target_ratio": None}, "intermediate_size: 4,864 is not"),
        ({"align": 128, "ffn": {"multiple_of": 96}}, "intermediate_size: 4,864 is not"),
        ({"align": 14, "vocabulary": {"enabled": False}}, "vocab_size: 151,936 is not"),
        ({"vocabulary": {"pad_to_multiple_of": 200_000}}, "vocab_size: no size up to the dense 151,936 is"),
        ({"num_experts": 4}, "num_experts: this model has no experts to remove; leave it out"),
        ({"intermediate_size": 5000}, "intermediate_size: 5,000 is more than the 4,864"),
    ],
)
def test_what_the_model_cannot_have_is_refused_before_work(changes, fault):
    with pytest.raises(ConfigurationError, match=fault):
        request_for(FlabPrunerConfig(**{"target_ratio": 0.35, **changes}), dense_sizes())


def test_padding_beyond_the_dense_rows_is_refused():
    odd = replace(dense_sizes(), shape=DENSE.resized(vocab=151_900))
    config = FlabPrunerConfig(align=2)
    with pytest.raises(ConfigurationError, match="padded to 151,936 rows, more than the 151,900 of the dense model"):
        shapes_to_compare(request_for(config, odd), 151_900, 1)


@pytest.mark.parametrize("changes", [{"target_ratio": 0.4}, {"vocab_size": 30_000}])
def test_the_padding_of_a_vocabulary_that_is_not_taken_is_in_nobodys_way(changes):
    odd = replace(dense_sizes(), shape=DENSE.resized(vocab=151_900))
    config = FlabPrunerConfig(align=2, **changes)
    (first, *_), *_ = shapes_to_compare(request_for(config, odd), 151_900, 1)
    assert first["vocab"] < 151_900


def test_a_target_that_coarse_rows_come_near_is_met():
    sizes = dense_sizes()
    fixed = {"layers": {"enabled": False}, "ffn": {"enabled": False}}
    (shape,) = shapes_for(sizes, 0.113, vocabulary={"pad_to_multiple_of": 30_000}, **fixed)
    assert shape["vocab"] == 90_000


def test_the_width_of_experts_stays_and_must_be_shared_too(lite):
    with pytest.raises(ConfigurationError, match="intermediate_size: 1,408 is not"):
        request_for(FlabPrunerConfig(target_ratio=0.3, align=4, experts={"enabled": True}), lite)


def test_what_was_asked_for_is_saved_as_it_was(tmp_path):
    """A file of settings can be given back with other flags."""
    config = FlabPrunerConfig(target_ratio=0.3, align=2)
    request_for(config, dense_sizes())
    config.save_pretrained(tmp_path)
    below = read_settings_file(tmp_path / "flab_config.json")
    merged = FlabPrunerConfig(**merge_settings(below, {"align": 1, "vocabulary": {"enabled": False}}))
    assert (merged.align, merged.ffn.multiple_of, merged.vocabulary.pad_to_multiple_of) == (1, None, None)
    assert can_be_had(merged, dense_sizes(), DENSE["vocab"], DENSE["vocab"])
