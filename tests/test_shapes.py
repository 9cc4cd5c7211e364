import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.criteria import NEURONS as CRITERIA
from optimum_flab.measuring.divergence import following, predicting
from optimum_flab.pruning.components.neurons import decide_neurons
from optimum_flab.pruning.limits import candidate_shapes, parameters_to_keep, start_shape
from optimum_flab.pruning.search import ChosenShape, Expectation, search_shape
from optimum_flab.pruning.shapes import cost, measure_shape
from optimum_flab.records.pieces import Pieces
from optimum_flab.records.report import Search, TriedShape
from optimum_flab.running import casting
from optimum_flab.sizes import Shape

from .conftest import DENSE, LAYERS, LIMITS, QWEN, VOCABULARY, WIDTH, limits, random_tokens, reading, tiny_model


def rows_for(target, natural, bounds=LIMITS):
    return candidate_shapes(bounds, natural, parameters_to_keep(QWEN, DENSE, target), QWEN.total(DENSE) // 200)


@given(target=st.floats(0.01, 0.95), natural=st.integers(20_000, 60_000))
@settings(max_examples=200, deadline=None)
def test_every_candidate_lands_within_half_a_point_and_never_above_the_budget(target, natural):
    rows = rows_for(target, natural)
    assert rows
    for row in rows:
        assert [shape["neuron"] for shape in row] == sorted({shape["neuron"] for shape in row})
        assert len({shape["layer"] for shape in row}) == 1
        for shape in row:
            removed = 1 - QWEN.total(shape) / QWEN.total(DENSE)
            assert target - 1e-9 <= removed <= target + 0.005
            assert shape["neuron"] % 64 == 0


@given(target=st.floats(0.01, 0.95), natural=st.integers(20_000, 60_000))
@settings(max_examples=100, deadline=None)
def test_the_search_starts_within_a_step_of_a_share_of_the_natural_vocabulary(target, natural):
    row = rows_for(target, natural)[0]
    first, aim = start_shape(row, natural), 0.6 * natural
    assert first in row
    assert not [shape for shape in row if min(first["vocab"], aim) < shape["vocab"] < max(first["vocab"], aim)]


@given(target=st.floats(0.23, 0.6), natural=st.integers(20_000, 60_000))
@settings(max_examples=100, deadline=None)
def test_used_tokens_stay_where_the_user_says_so(target, natural):
    bounds = limits((natural, 151_665), (1, 24), (64, 4864))
    assert all(shape["vocab"] >= natural for row in rows_for(target, natural, bounds) for shape in row)


def test_a_row_trades_tokens_for_neurons():
    rows = rows_for(0.35, 37_000)
    assert [len(row) for row in rows] == [5, 5, 5] or len(rows[0]) > 3
    narrow, *_, wide = rows[0]
    assert narrow["neuron"] < wide["neuron"] and narrow["vocab"] > wide["vocab"]


def test_the_vocabulary_alone_meets_a_small_target():
    [[shape]] = rows_for(0.1, 33_000)
    assert (shape["layer"], shape["neuron"]) == (24, 4864)
    assert 95_000 < shape["vocab"] < 97_000


def test_a_pinned_vocabulary_is_not_traded():
    bounds = limits((40_000, 40_000), (1, 24), (64, 4864))
    rows = rows_for(0.35, 37_000, bounds)
    assert all(len(row) == 1 and row[0]["vocab"] == 40_000 for row in rows)


def tried(divergence, vocabulary, together):
    return TriedShape(
        **DENSE.reported(),
        validation_divergence=divergence,
        validation_vocabulary_bits_per_byte=vocabulary,
        validation_bits_per_byte=together,
        chosen=False,
    )


@given(st.floats(0.1, 5), st.floats(0, 2), st.floats(0.001, 1))
def test_what_pieces_cost_counts_for_less_than_what_neurons_cost(vocabulary, divergence, more):
    base = tried(divergence, vocabulary, vocabulary + divergence)
    pieces = tried(divergence, vocabulary + more, vocabulary + divergence + more)
    neurons = tried(divergence + more, vocabulary, vocabulary + divergence + more)
    assert cost(base) < cost(pieces) < cost(neurons)
    assert cost(pieces) - cost(base) == pytest.approx((cost(neurons) - cost(base)) / 4)


def bowl(width: int, layers: int):
    """Text costs more the further a shape is from one best shape."""

    def measure(shape: Shape) -> TriedShape:
        return tried(0.0, 0.0, abs(shape["neuron"] - width) / 64 + 10 * abs(shape["layer"] - layers))

    return measure


ROWS = [
    [Shape(vocab=60_000 - 9_000 * i + 12_000 * d, layer=24 - d, neuron=3648 + 128 * i) for i in range(5)]
    for d in range(3)
]


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("depth", range(3))
@pytest.mark.parametrize("factor", [0.5, 1.0])
def test_the_search_finds_the_bottom_of_a_bowl_where_it_is_expected(place, depth, factor):
    target = ROWS[depth][place]
    measure = bowl(target["neuron"], target["layer"])
    measured = search_shape(ROWS, ROWS[0][1], measure, lambda shape, _: factor * cost(measure(shape)))
    assert min(measured, key=lambda shape: cost(measured[shape])) == target
    beside = ROWS[depth][max(0, place - 1) : place + 2]
    assert {target, *beside} <= {*measured} and (factor < 1 or len(measured) <= 5)


@pytest.mark.parametrize("place", range(5))
def test_the_search_walks_to_the_bottom_of_a_row_where_nothing_better_is_expected(place):
    measure = bowl(ROWS[0][place]["neuron"], 24)
    measured = search_shape(ROWS, ROWS[0][2], measure, lambda shape, _: math.inf)
    assert min(measured, key=lambda shape: cost(measured[shape])) == ROWS[0][place] and {*measured} <= {*ROWS[0]}


def test_a_single_shape_is_measured_alone_and_all_where_all_are_expected_to_be_cheap():
    assert [*search_shape([[ROWS[0][0]]], ROWS[0][0], bowl(0, 0), lambda shape, _: 0.0)] == [ROWS[0][0]]
    measured = search_shape(ROWS, ROWS[0][0], bowl(3648, 24), lambda shape, _: -math.inf)
    assert {*measured} == {shape for row in ROWS for shape in row}


@given(st.floats(0.01, 3), st.floats(0, 2), st.floats(0, 5))
def test_what_is_expected_is_exact_where_the_text_follows_errors_and_uses(per_error, base, per_use):
    def measure(shape):
        lost, vocabulary = per_error * error(shape), base + per_use * unused(shape["vocab"])
        return tried(lost, vocabulary, vocabulary + lost)

    def error(shape):
        return (4864 - shape["neuron"]) / 1000 + (24 - shape["layer"]) / 10

    def unused(size):
        return 1 - size / 100_000

    known = {shape: measure(shape) for shape in (ROWS[0][1], ROWS[0][2])}
    expected = Expectation(error, unused)
    for shape in (shape for row in ROWS for shape in row):
        assert expected(shape, known) == pytest.approx(cost(measure(shape)), abs=1e-9)


def measured(model, tokens, shape, removed=(), narrowed=None, kept=range(VOCABULARY)):
    stays = {"layer": [index for index in range(LAYERS) if index not in removed], "neuron": narrowed or {}}
    return measure_shape(reading(model, tokens), shape, np.asarray(kept), stays, 1000, Pieces())


def test_a_shape_that_only_removes_tokens_costs_what_the_dense_model_does(family, monkeypatch):
    monkeypatch.setattr(casting, "multiplies_bfloat16", lambda device: False)
    model, tokens, kept = tiny_model(family), random_tokens(), range(0, VOCABULARY, 2)
    tokens = replace(tokens, input_ids=tokens.input_ids // 2 * 2)
    candidate = measured(model, tokens, Shape(vocab=len(kept), layer=LAYERS, neuron=WIDTH), kept=kept)
    logits = model(**tokens.model_inputs("cpu")).logits[..., kept].log_softmax(-1)
    bits = -logits[predicting(tokens)].gather(1, following(tokens)[:, None] // 2).sum() / math.log(2)
    assert candidate.validation_divergence == pytest.approx(0, abs=1e-6)
    assert candidate.validation_bits_per_byte == pytest.approx(float(bits) / 1000, rel=1e-4)
    assert candidate.validation_vocabulary_bits_per_byte == pytest.approx(candidate.validation_bits_per_byte, abs=1e-6)


def test_shapes_cost_the_same_where_bfloat16_is_fast_but_for_rounding(family, monkeypatch):
    model, tokens = tiny_model(family), random_tokens()
    shape = Shape(vocab=VOCABULARY, layer=LAYERS - 1, neuron=40)
    narrowed = decide_neurons(reading(model, random_tokens(60)), range(LAYERS), [40], CRITERIA["obs"])[40]
    exact, fast = [], []
    for found, multiplies in ((exact, False), (fast, True)):
        monkeypatch.setattr(casting, "multiplies_bfloat16", lambda device, multiplies=multiplies: multiplies)
        for removed in ((), (1,), (0, 2)):
            found.append(measured(model, tokens, shape, removed, narrowed))
    for one, other in zip(exact, fast, strict=True):
        assert other.validation_divergence == pytest.approx(one.validation_divergence, rel=0.1)
        assert other.validation_bits_per_byte == pytest.approx(one.validation_bits_per_byte, rel=0.01)
        assert other.validation_divergence != one.validation_divergence


def test_shapes_that_cost_nearly_the_same_are_told():
    best, near, far = (tried(bits, 0.0, bits) for bits in (1.0, 1.005, 1.02))
    search = Search(candidates=(near, best.model_copy(update={"chosen": True}), far), natural_vocab_size=7)
    (note,) = ChosenShape(ROWS[0][0], {}, search).notes
    assert "costs 0.5% more" in note
    assert not ChosenShape(ROWS[0][0], {}, Search(natural_vocab_size=7)).notes
