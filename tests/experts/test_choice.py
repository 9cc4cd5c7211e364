"""Laws of choosing experts and of cutting tensors that have them."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.families import select_along
from optimum_flab.pruning.components.experts import chosen_experts


@st.composite
def scored(draw):
    groups, size = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    scores = draw(st.lists(st.integers(0, 5), min_size=groups * size, max_size=groups * size))
    return torch.tensor(scores, dtype=torch.float64), groups, draw(st.integers(1, size))


@given(scored())
@settings(max_examples=200, deadline=None)
def test_the_best_of_each_group_stay(case):
    scores, groups, each = case
    kept = chosen_experts(scores, groups * each, groups)
    assert kept.tolist() == sorted(set(kept.tolist())) and len(kept) == groups * each
    size = len(scores) // groups
    for group in range(groups):
        own = [expert for expert in kept.tolist() if expert // size == group]
        others = [expert for expert in range(group * size, (group + 1) * size) if expert not in own]
        assert len(own) == each
        assert all(scores[mine] >= scores[other] for mine in own for other in others)
        # of equals the first stay
        assert all(mine < other for mine in own for other in others if scores[mine] == scores[other])


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_neurons_are_cut_for_each_expert_alone(data):
    experts, neurons, hidden = (data.draw(st.integers(1, 4), label=name) for name in ("experts", "neurons", "hidden"))
    kept = data.draw(st.lists(st.integers(0, experts - 1), min_size=1, max_size=experts, unique=True).map(sorted))
    width = data.draw(st.integers(1, neurons))
    columns = [
        sorted(data.draw(st.permutations(range(neurons)), label=f"neurons of {expert}")[:width]) for expert in kept
    ]
    indices = {"expert": torch.tensor(kept), "neuron": torch.tensor(columns)}
    up, down = torch.randn(experts, 2 * neurons, hidden), torch.randn(experts, hidden, neurons)
    blocks = select_along(up, ("expert", "neuron*2", "hidden"), indices)
    neighbours = select_along(up, ("expert", "2*neuron", "hidden"), indices)
    out = select_along(down, ("expert", "hidden", "neuron"), indices)
    router = select_along(down[:, :, 0], ("expert", "hidden"), indices)
    for place, (expert, own) in enumerate(zip(kept, columns, strict=True)):
        first, second = up[expert, :neurons], up[expert, neurons:]
        assert blocks[place].equal(torch.cat([first[own], second[own]]))
        assert neighbours[place].equal(up[expert].reshape(neurons, 2, hidden)[own].flatten(0, 1))
        assert out[place].equal(down[expert][:, own])
        assert router[place].equal(down[expert, :, 0])
