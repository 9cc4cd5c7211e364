"""The one least squares: what pruning and the closed form of recovery solve."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.pruning.least_squares import COLUMN_BLOCKS, LeastSquares, solve


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3 * COLUMN_BLOCKS + 1), st.integers(1, 5), st.floats(0.01, 2))
def test_the_sums_and_the_solution_are_those_of_the_definition(seed, inside, outside, damping):
    """In float64, from all tokens: the gradient of `sum_c |t - W x|² + λ |W - W₀|²` is zero at the solution."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outside, inside, generator=generator)
    inputs, targets = (torch.randn(60, size, generator=generator) for size in (inside, outside))
    importance = torch.rand(60, generator=generator)
    problem = LeastSquares(weight)
    for rows in (slice(0, 7), slice(7, 60)):
        problem.add(inputs[rows], targets[rows], importance[rows])
    assert problem.gram.equal(problem.gram.T)
    x, t, c = inputs.double(), targets.double(), importance.double()[:, None]
    torch.testing.assert_close(problem.gram.double(), (c * x).T @ x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(problem.cross.double(), (c * t).T @ x, rtol=1e-4, atol=1e-4)

    solved = solve(*problem.damped(damping))[0].double()
    pull = damping * (c * x.square()).sum(dim=0).mean()
    gradient = (c * (x @ solved.T - t)).T @ x + pull * (solved - weight.double())
    assert gradient.abs().max() < 1e-3 * (1 + problem.cross.abs().max())


def test_what_all_inputs_are_is_the_default_of_what_stays():
    problem = LeastSquares(torch.randn(3, 9))
    problem.add(torch.randn(20, 9), torch.randn(20, 3), torch.ones(20))
    assert solve(*problem.damped())[0].equal(solve(*problem.damped(), [torch.arange(9)])[0])


def test_without_tokens_the_weights_are_those_they_are_pulled_towards():
    weight = torch.randn(3, 9)
    torch.testing.assert_close(solve(*LeastSquares(weight).damped())[0], weight)
