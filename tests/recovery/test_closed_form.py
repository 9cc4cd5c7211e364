"""Least squares on a model as it was pruned."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.checkpoints.surgery import operate
from optimum_flab.families import family_for
from optimum_flab.measuring.divergence import final_hidden
from optimum_flab.recovery.closed_form import between, corrected, refit, tokens_to_refit
from optimum_flab.running.casting import copy_in
from optimum_flab.tensors.least_squares import LeastSquares

from ..conftest import LAYERS, WIDTH, plan_of, random_tokens, reading, thorough_but, tiny_model


def pruned_and_dense(family: str, layers: list[int], width: int = WIDTH * 3 // 4):
    dense = tiny_model(family, initializer_range=0.15)
    plan = plan_of(None, layers, {layer: list(range(width)) for layer in layers})
    return operate(dense, family_for(dense.config), plan), dense


def distance(model, dense, tokens) -> float:
    own, wanted = (final_hidden(reading(one, tokens)) for one in (model, dense))
    return float((own - wanted).square().mean())


@pytest.mark.parametrize("layers", thorough_but(2, [[0, 2, 3], [0, 1], [0, 1, 2, 3], [1, 2]]), ids=str)
def test_the_pruned_stream_comes_nearer_to_the_dense_one(layers):
    model, dense = pruned_and_dense("qwen2", layers)
    tokens = random_tokens(documents=200)
    before = distance(model, dense, tokens)
    refit(reading(dense, tokens, 8), reading(model, tokens, 8), layers)
    assert distance(model, dense, tokens) < 0.9 * before
    other = random_tokens(documents=100, seed=1)
    fresh, _ = pruned_and_dense("qwen2", layers)
    assert distance(model, dense, other) < distance(fresh, dense, other)


@pytest.mark.parametrize(
    "family", thorough_but(2, ["llama-bias", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"])
)
def test_every_family_is_refitted_without_harm(family):
    layers = list(range(LAYERS))
    model, dense = pruned_and_dense(family, layers)
    tokens = random_tokens(documents=200)
    before = distance(model, dense, tokens)
    refit(reading(dense, tokens, 8), reading(model, tokens, 8), layers)
    assert distance(model, dense, tokens) < before
    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_a_model_that_lost_nothing_stays_as_it_is():
    dense = tiny_model("qwen2")
    model = copy_in(dense, torch.device("cpu"), torch.float32)
    tokens = random_tokens()
    refit(reading(dense, tokens, 8), reading(model, tokens, 8), list(range(LAYERS)))
    for name, tensor in dense.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(2, 6), st.floats(0.01, 2))
def test_the_solution_minimises_the_pulled_error(seed, inside, outside, pull):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outside, inside, generator=generator)
    inputs, targets = torch.randn(40, inside, generator=generator), torch.randn(40, outside, generator=generator)
    importance = torch.rand(40, generator=generator) + 0.1
    problem = LeastSquares(torch.zeros_like(weight))
    for rows in (slice(0, 10), slice(10, 40)):
        problem.add(inputs[rows], targets[rows] - inputs[rows] @ weight.T, importance[rows])
    solved = corrected(weight, problem, pull)
    strength = pull * problem.gram.diagonal().mean()

    def error(matrix):
        fit = (importance[:, None] * (targets - inputs @ matrix.T).square()).sum()
        return fit + strength * (matrix - weight).square().sum()

    best = error(solved)
    for _ in range(5):
        assert error(solved + 0.05 * torch.randn(outside, inside, generator=generator)) >= best - 1e-3


def test_tokens_that_say_nothing_change_nothing():
    weight = torch.randn(3, 4)
    problem = LeastSquares(torch.zeros_like(weight))
    torch.testing.assert_close(corrected(weight, problem), weight)
    problem.add(torch.full((2, 4), torch.nan), torch.zeros(2, 3), torch.ones(2))
    torch.testing.assert_close(corrected(weight, problem), weight)


def test_too_few_tokens_leave_a_projection_as_it_is():
    layers = list(range(LAYERS))
    model, dense = pruned_and_dense("qwen2", layers)
    before = copy.deepcopy(model.state_dict())
    tokens = random_tokens(documents=16)
    assert 8 * 32 < tokens.tokens < 8 * WIDTH * 3 // 4
    assert tokens_to_refit(model, family_for(model.config)) == {
        "self_attn.o_proj": 8 * 32,
        "mlp.down_proj": 8 * WIDTH * 3 // 4,
    }
    assert refit(reading(dense, tokens, 8), reading(model, tokens, 8), layers) == {"mlp.down_proj"}
    changed = {name.split(".")[-2] for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}
    assert changed == {"o_proj", "norm"}


def test_part_of_the_way_lies_between():
    start, goal, result = (tiny_model("qwen2") for _ in range(3))
    for parameter in goal.parameters():
        parameter.data.add_(1.0)
    for share in (0.25, 1.0, 0.0):
        between(start, goal, share, result)
        for own, found in zip(start.parameters(), result.parameters(), strict=True):
            torch.testing.assert_close(found, own + share)
