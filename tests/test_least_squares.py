"""The one least squares: what pruning solves."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.criteria.base import DAMPING
from optimum_flab.tensors.least_squares import (
    DAMPING_STEP,
    Fit,
    LeastSquares,
    best_fit,
    solve,
    whole,
)
from optimum_flab.tensors.matrices import COLUMN_BLOCKS, HalfMatrix, cholesky_, inverse_


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


def test_tokens_may_be_added_after_the_matrix_was_read():
    inputs, targets = torch.randn(60, 19), torch.randn(60, 3)
    once, twice = LeastSquares(torch.randn(3, 19)), LeastSquares(torch.randn(3, 19))
    for part in slice(0, 30), slice(30, 60):
        once.add(inputs[part], targets[part], torch.ones(30))
        twice.add(inputs[part], targets[part], torch.ones(30))
        assert twice.gram.equal(twice.gram.T)
    assert once.gram.equal(twice.gram)


def test_what_all_inputs_are_is_the_default_of_what_stays():
    problem = LeastSquares(torch.randn(3, 9))
    problem.add(torch.randn(20, 9), torch.randn(20, 3), torch.ones(20))
    assert solve(*problem.damped(DAMPING))[0].equal(solve(*problem.damped(DAMPING), [torch.arange(9)])[0])


def test_float32_solves_well_damped_problems():
    problem = LeastSquares(torch.randn(3, 40, generator=torch.Generator().manual_seed(0)))
    problem.add(torch.randn(200, 40), torch.randn(200, 3), torch.rand(200))
    nested = [torch.arange(0, 40, 2), torch.arange(40)]
    gram, cross = problem.damped(0.3)
    for inputs, found in zip(nested, solve(gram, cross, nested), strict=True):
        exact = torch.linalg.solve(gram[inputs][:, inputs].double(), cross[:, inputs].double().T).T
        torch.testing.assert_close(found, exact.float(), rtol=1e-3, atol=1e-4)


def test_what_float32_cannot_factor_is_solved_in_float64():
    generator = torch.Generator().manual_seed(0)
    factor = (torch.randint(-9, 10, (12, 12), generator=generator).float().tril(-1) + torch.eye(12)).flip(0)
    gram, weight = factor @ factor.T, torch.randint(-3, 4, (3, 12), generator=generator).float()
    assert not cholesky_(gram.clone())
    (found,) = solve(gram, weight @ gram)
    torch.testing.assert_close(found, weight, rtol=0, atol=0.1)


def test_without_tokens_the_weights_are_those_they_are_pulled_towards():
    weight = torch.randn(3, 9)
    torch.testing.assert_close(solve(*LeastSquares(weight).damped(DAMPING))[0], weight)


def two_folds(seed: int, tokens: int, noise: float, mismatch: float) -> list[LeastSquares]:
    """What `W₀` gives and a true linear mismatch are wanted of the weights, with noise that no weights explain."""
    generator = torch.Generator().manual_seed(seed)
    weight, missing = (torch.randn(4, 12, generator=generator) for _ in range(2))
    mix, folds = torch.randn(12, 12, generator=generator), []
    for _ in range(2):
        inputs = torch.randn(tokens, 12, generator=generator) @ mix
        targets = inputs @ (weight + mismatch * missing).T + noise * torch.randn(tokens, 4, generator=generator)
        folds.append(LeastSquares(weight))
        folds[-1].add(inputs, targets, torch.ones(tokens))
    return folds


def fit_of(folds: list[LeastSquares], kept: torch.Tensor, start: float = DAMPING) -> Fit:
    return best_fit([fold.restricted(kept) for fold in folds], start)


def error_on(problem: LeastSquares, kept: torch.Tensor, weights: torch.Tensor) -> float:
    gram, cross, weights = problem.gram[kept][:, kept].double(), problem.cross[:, kept].double(), weights.double()
    return float(((weights @ gram - 2 * cross) * weights).sum())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0, 20.0]), st.sampled_from([0.0, 0.5]))
def test_the_fit_is_the_best_of_its_neighbours_on_the_other_fold(seed, noise, mismatch):
    folds, kept = two_folds(seed, 30, noise, mismatch), torch.arange(0, 12, 2)
    scales = [float((fold.weight @ fold.gram * fold.weight).sum()) for fold in folds]

    def crossed(damping: float, share: float) -> float:
        pulls = [fold.restricted(kept).level for fold in folds]
        same = [damping * sum(pulls) / len(pulls) / pull for pull in pulls]  # one pull for both
        weights = [solve(*fold.restricted(kept).damped(own, share))[0] for fold, own in zip(folds, same, strict=True)]
        return error_on(folds[1], kept, weights[0]) / scales[1] + error_on(folds[0], kept, weights[1]) / scales[0]

    fit = fit_of(folds, kept)
    damping, least = fit.damping * len(folds), None
    assert 0 <= fit.share <= 1
    least = crossed(damping, fit.share)
    for share in (0.0, fit.share - 0.05, fit.share + 0.05, 1.0):
        if 0 <= share <= 1:
            assert least <= crossed(damping, share) + 1e-5
    if DAMPING / 50 < damping < DAMPING * 50:  # not at the end of the steps
        assert least <= min(crossed(damping * DAMPING_STEP, 1.0), crossed(damping / DAMPING_STEP, 1.0)) + 1e-5


def test_noise_is_damped_and_a_mismatch_that_is_noise_is_not_followed():
    kept = torch.arange(12)
    clean, noisy = (fit_of(two_folds(0, 30, noise, 1.0), kept) for noise in (0.01, 30.0))
    assert clean.damping < noisy.damping
    assert clean.share > 0.9 and fit_of(two_folds(0, 20, 30.0, 0.0), kept).share < 0.5


def test_without_text_in_a_fold_the_fit_is_the_default():
    filled = two_folds(0, 30, 1.0, 0.0)[0]
    assert fit_of([filled, LeastSquares(filled.weight)], torch.arange(12)) == Fit(DAMPING)


def test_the_whole_is_the_sum_of_its_folds():
    folds = two_folds(0, 30, 1.0, 0.5)
    assert whole(folds).gram.equal(folds[0].gram + folds[1].gram)
    assert whole(folds).cross.equal(folds[0].cross + folds[1].cross)


@given(st.integers(0, 10**6), st.permutations(range(12)), st.integers(1, 12), st.floats(0, 1))
@settings(max_examples=20, deadline=None)
def test_what_stays_of_the_whole_is_the_sum_of_what_stays_of_its_folds(seed, order, size, share):
    """And its equations are rows and columns of those of all inputs."""
    folds, kept = two_folds(seed, 30, 1.0, 0.5), torch.tensor(sorted(order[:size]))
    both = folds[0].restricted(kept).joined(folds[1].restricted(kept))
    gram, cross = whole(folds).damped(0.1)
    problem = whole(folds)
    cross = cross + (1 - share) * (problem.weight @ problem.gram - problem.cross)
    for found, expected in zip(both.damped(0.1, share), (gram, cross), strict=True):
        expected = expected[:, kept] if expected.shape != (12, 12) else expected[kept][:, kept]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_fold_that_hardly_weighs_anything_decides_nothing():
    folds = two_folds(0, 30, 1.0, 0.5)
    light = LeastSquares(folds[1].weight)
    light.add(torch.randn(30, 12), torch.randn(30, 4), torch.full((30,), 0.01))
    folds[1] = light
    assert fit_of(folds, torch.arange(0, 12, 2)) == Fit(DAMPING)


def too_fine_for_float32() -> torch.Tensor:
    """A positive definite matrix that this machine's float32 cannot factor: which ones those are differs."""
    for seed in range(100):
        lower = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tril()
        lower.diagonal().mul_(torch.logspace(0, -4, 6, dtype=torch.float64))
        gram = (lower @ lower.T).float()
        gram = (gram + gram.T) / 2
        if not cholesky_(gram.clone()) and torch.linalg.eigvalsh(gram.double()).min() > 1e-10:
            return gram
    raise AssertionError("float32 factors all of them")


def test_what_float32_cannot_factor_is_left_to_more_damping_or_to_float64():
    gram = too_fine_for_float32()
    exact = torch.linalg.inv(gram.double())
    torch.testing.assert_close(inverse_(gram.clone()).double(), exact, rtol=1e-3, atol=1e-3)

    folds = []
    for fold in two_folds(0, 30, 0.0, 0.5):
        whole_gram = fold.gram
        whole_gram[:6, :6], whole_gram[:6, 6:] = gram, 0
        folds.append(LeastSquares(fold.weight, half=HalfMatrix(whole_gram)))
        folds[-1].cross.copy_(fold.cross)
    fit = fit_of(folds, torch.arange(6), start=1e-13)
    assert fit.damping > 1e-13 and solve(*whole(folds).damped(fit.damping))[0].isfinite().all()
