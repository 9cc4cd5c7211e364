import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.criteria import NEURONS as CRITERIA
from optimum_flab.criteria.base import DAMPING
from optimum_flab.criteria.elimination import STEPS, eliminate
from optimum_flab.criteria.statistics import FOLDS, NeuronStatistics
from optimum_flab.tensors.least_squares import solve


HIDDEN, NEURONS = 6, 24


def made(seed: int = 0, tokens: int = 200) -> NeuronStatistics:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(NEURONS, NEURONS, generator=generator)
    inputs = torch.randn(tokens, NEURONS, generator=generator) @ mix
    weight = torch.randn(HIDDEN, NEURONS, generator=generator)
    incoming = [torch.randn(NEURONS, HIDDEN, generator=generator) for _ in range(2)]
    statistics = NeuronStatistics(weight, incoming)
    statistics.add(inputs, inputs @ weight.T, torch.ones(tokens), torch.arange(tokens) % FOLDS)
    return statistics


def error(statistics: NeuronStatistics, kept: torch.Tensor, weight: torch.Tensor) -> float:
    """The damped quadratic error up to a constant, in float64."""
    gram, cross = statistics.whole.damped(DAMPING)
    weight, gram = weight.double(), gram[kept][:, kept].double()
    return float(((weight @ gram) * weight).sum() - 2 * (weight * cross[:, kept].double()).sum())


def best_by_brute_force(statistics: NeuronStatistics) -> int:
    gram, cross = statistics.whole.damped(DAMPING)
    errors = []
    for neuron in range(NEURONS):
        kept = torch.tensor([n for n in range(NEURONS) if n != neuron])
        errors.append(error(statistics, kept, solve(gram, cross, [kept])[0]))
    return min(range(NEURONS), key=errors.__getitem__)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_first_neuron_eliminated_is_the_one_that_brute_force_removes(seed):
    statistics = made(seed)
    kept = eliminate(*statistics.whole.damped(DAMPING), [NEURONS - 1], block=1)[NEURONS - 1]
    assert set(range(NEURONS)) - set(kept.tolist()) == {best_by_brute_force(statistics)}


@given(seed=st.integers(0, 1000), block=st.integers(1, 7))
@settings(max_examples=20, deadline=None)
def test_sets_are_sorted_nested_and_of_the_widths_asked_for(seed, block):
    kept = eliminate(*made(seed).whole.damped(DAMPING), [20, 5, 11], block)
    assert {width: len(neurons) for width, neurons in kept.items()} == {20: 20, 11: 11, 5: 5}
    assert set(kept[5].tolist()) < set(kept[11].tolist()) < set(kept[20].tolist())
    assert all(neurons.tolist() == sorted(neurons.tolist()) for neurons in kept.values())


@given(seed=st.integers(0, 1000), block=st.sampled_from([1, 3]))
@settings(max_examples=10, deadline=None)
def test_neurons_go_as_if_the_inverse_were_brought_up_to_date_every_step(seed, block):
    neurons, width = 3 * STEPS * block, STEPS * block // 2
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(4 * neurons, neurons, generator=generator, dtype=torch.float64)
    gram = inputs.T @ inputs / len(inputs) + torch.eye(neurons)
    cross = torch.randn(HIDDEN, neurons, generator=generator, dtype=torch.float64)
    found = eliminate(gram.clone(), cross.clone(), [width, 2 * width], block)

    left = list(range(neurons))
    while len(left) > width:
        inverse = torch.linalg.inv(gram[left][:, left])
        score = (cross[:, left] @ inverse).square().sum(dim=0) / inverse.diagonal()
        out = score.argsort()[: min(block, len(left) - width)].tolist()
        left = [neuron for place, neuron in enumerate(left) if place not in out]
        if len(left) == 2 * width:
            assert found[2 * width].tolist() == left
    assert found[width].tolist() == left


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_nested_sets_are_refitted_as_each_alone(seed):
    gram, cross = made(seed).whole.damped(DAMPING)
    kept = list(eliminate(gram.clone(), cross.clone(), [20, 5, 11], block=1).values())
    for neurons, weight in zip(kept, solve(gram, cross, kept), strict=True):
        alone = torch.linalg.solve(gram[neurons][:, neurons].double(), cross[:, neurons].double().T).T
        torch.testing.assert_close(weight.double(), alone, rtol=1e-4, atol=1e-5)


def test_elimination_beats_the_other_criteria_over_several_layers():
    total = dict.fromkeys(CRITERIA, 0.0)
    for seed in range(8):
        statistics = made(seed)
        gram, cross = statistics.whole.damped(DAMPING)
        for name, criterion in CRITERIA.items():
            kept = criterion.select(statistics, [16], torch.Generator().manual_seed(0))[16]
            assert kept.tolist() == sorted(set(kept.tolist())) and len(kept) == 16
            total[name] += error(statistics, kept, solve(gram, cross, [kept])[0])
    assert min(total, key=total.get) == "obs"


def test_a_dead_and_a_doubled_neuron_go_first():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 8, generator=generator)
    inputs[:, 3] = 0
    inputs[:, 6] = inputs[:, 1]
    weight = torch.randn(HIDDEN, 8, generator=generator)
    statistics = NeuronStatistics(weight, [])
    statistics.add(inputs, inputs @ weight.T, torch.ones(500), torch.arange(500) % FOLDS)
    kept = set(eliminate(*statistics.whole.damped(1e-4), [6], block=1)[6].tolist())
    assert 3 not in kept and len(kept & {1, 6}) == 1


@pytest.mark.parametrize("width", [20, NEURONS - 1])
def test_scores_that_overflow_are_an_error_and_keep_no_other_number(width):
    gram, cross = made().whole.damped(DAMPING)
    with pytest.raises((FloatingPointError, torch.linalg.LinAlgError)):
        eliminate(gram, cross * 1e30, [width], block=3)


def test_nan_activations_are_seen():
    statistics = made()
    assert statistics.is_finite
    statistics.add(torch.full((1, NEURONS), torch.nan), torch.zeros(1, HIDDEN), torch.ones(1), torch.zeros(1))
    assert not statistics.is_finite
