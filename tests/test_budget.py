import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.errors import ConfigurationError
from optimum_flab.families import family_for
from optimum_flab.pruning.limits import candidate_shape, check_reached, check_target, parameters_to_keep
from optimum_flab.sizes import Shape, count_parameters, shape_of

from .conftest import DENSE, LAYERS, QWEN, VOCABULARY, WIDTH, limits, tiny_model


def test_counts_are_those_of_the_model(family):
    model = tiny_model(family)
    architecture = family_for(model.config)
    counts = count_parameters(model, architecture)
    assert shape_of(model, architecture) == Shape(vocab=VOCABULARY, layer=LAYERS, neuron=WIDTH)
    assert counts.total(shape_of(model, architecture)) == sum(p.numel() for p in model.parameters())


def test_counts_foretell_a_smaller_model(family):
    counts = count_parameters(tiny_model(family), family_for(tiny_model(family).config))
    changes = {"layer_types": ["full_attention"] * 2} if family == "gemma3_text" else {}
    smaller = tiny_model(family, vocab_size=200, num_hidden_layers=2, intermediate_size=24, **changes)
    assert counts.total(Shape(vocab=200, layer=2, neuron=24)) == sum(p.numel() for p in smaller.parameters())


def test_a_pinned_width_leaves_the_rest_to_the_vocabulary():
    pinned = limits((1000, 151_665), (24, 24), (4096, 4096))
    shape = candidate_shape(QWEN, pinned, 33_000, 24, parameters_to_keep(QWEN, DENSE, 0.2))
    assert shape["neuron"] == 4096 and shape["vocab"] > 33_000


@given(target=st.floats(0.2, 0.5), pinned=st.integers(5_000, 60_000))
@settings(max_examples=100, deadline=None)
def test_a_pinned_vocabulary_leaves_the_rest_to_the_width(target, pinned):
    bounds = limits((pinned, pinned), (24, 24), (64, 4864))
    shape = candidate_shape(QWEN, bounds, 38_000, 24, parameters_to_keep(QWEN, DENSE, target))
    if shape is not None and 64 < shape["neuron"] < 4864:
        assert shape["vocab"] == pinned
        assert 1 - QWEN.total(shape) / QWEN.total(DENSE) == pytest.approx(target, abs=0.005)


def test_an_unreachable_target_says_what_is_reachable():
    pinned = limits((151_936, 151_936), (24, 24), (64, 4864))
    with pytest.raises(ConfigurationError, match=r"at least 0\.000 and at most 0\.6\d\d"):
        check_target(QWEN, DENSE, pinned, 0.7, 0.005)
    check_target(QWEN, DENSE, pinned, 0.6, 0.005)


def test_the_nearest_depth_is_taken_where_nothing_else_is_free():
    bounds = limits((151_936, 151_936), (1, 24), (4864, 4864))
    for removed in range(1, 20):
        exact = 1 - QWEN.total(Shape(vocab=151_936, layer=24 - removed, neuron=4864)) / QWEN.total(DENSE)
        for target in (exact - 0.004, exact + 0.004):
            rows = candidate_shape(QWEN, bounds, 40_000, 24 - removed, parameters_to_keep(QWEN, DENSE, target))
            assert rows == Shape(vocab=151_936, layer=24 - removed, neuron=4864)
            assert check_reached(QWEN, DENSE, bounds, [rows], target, 0.005) == [rows]


def test_a_target_between_two_depths_is_refused_with_the_nearer_one():
    bounds = limits((151_936, 151_936), (1, 24), (4864, 4864))
    near = 1 - QWEN.total(Shape(vocab=151_936, layer=23, neuron=4864)) / QWEN.total(DENSE)
    with pytest.raises(ConfigurationError, match=f"nearest is {near:.4f}"):
        check_reached(QWEN, DENSE, bounds, [Shape(vocab=151_936, layer=23, neuron=4864)], near + 0.01, 0.005)
