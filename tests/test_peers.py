"""Scores of other methods, on cases worked by hand from their papers."""

import importlib
from pathlib import Path

import pytest
import torch

from optimum_flab.families import family_for
from optimum_flab.texts.packing import PackedTokens

from .conftest import tiny_model


# three tokens, two neurons; the last token leaves the vocabulary; two rows of text, the second of one token
X = torch.tensor([[1.0, -2.0], [3.0, 2.0], [-2.0, 3.0]])
OUT = torch.tensor([[1.0, 0.5], [-1.0, 0.5]])


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module("peers")


@pytest.fixture
def sums(peers):
    rows = ((X[:2].abs().mean(dim=0)) ** 2) + X[2].abs() ** 2
    return peers.NeuronSums(
        tokens=3,
        total=X.sum(dim=0),
        square=X.square().sum(dim=0),
        common_square=X[:2].square().sum(dim=0),
        row_means=rows,
        out=OUT,
        taylor=torch.tensor([0.25, 0.75]),
    )


@pytest.mark.parametrize(
    "method, expected",
    [
        # |w| is 1 and 0.5 on average; the norms of x are those of (1, 3, -2) and (-2, 2, 3)
        ("wanda", [14**0.5, 0.5 * 17**0.5]),
        # means 2/3 and 1; variances (14 - 3 * 4/9) / 2 and (17 - 3) / 2; squared norms of the weights 2 and 0.5
        ("flap", [(14 - 4 / 3) / 2 * 2, 7 * 0.5]),
        # rows: means of |x| (2, 2) and (2, 3)
        ("minitron", [8**0.5, 13**0.5]),
        ("compact", [10.0, 8.0]),
        ("llm-pruner", [0.25, 0.75]),
    ],
)
def test_scores_are_those_of_the_papers(peers, sums, method, expected):
    torch.testing.assert_close(peers.SCORES[method](sums), torch.tensor(expected))


def test_the_best_neurons_stay_in_order(peers):
    assert peers.kept_neurons(torch.tensor([0.1, 3.0, 2.0, 3.0]), 3) == [1, 2, 3]


def test_sums_are_those_of_the_model_on_the_text(peers):
    model = tiny_model("qwen2")
    family = family_for(model.config)
    ids = torch.randint(0, 200, (3, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[2, 4:] = False
    positions = torch.arange(6).expand(3, -1).clone()
    positions[2, 4:] = 0
    tokens = PackedTokens(ids, positions, mask)
    layer, common = family.decoder_layers(model)[0], ids[0].tolist()
    seen = []
    handle = family.ffn_out(layer).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        model(**tokens.model_inputs("cpu"))
    handle.remove()
    (x,), found = seen, peers.neuron_sums(model, family, tokens, common, 2, 3)[0]
    real, stays = x[mask], mask & torch.isin(ids, torch.tensor(common))
    assert found.tokens == int(mask.sum())
    torch.testing.assert_close(found.total, real.sum(dim=0))
    torch.testing.assert_close(found.square, real.square().sum(dim=0))
    torch.testing.assert_close(found.common_square, x[stays].square().sum(dim=0))
    means = torch.stack([x[row][mask[row]].abs().mean(dim=0) for row in range(3)])
    torch.testing.assert_close(found.row_means, means.square().sum(dim=0))

    def loss():
        rows = []
        for row in range(3):
            length = int(mask[row].sum())
            logits = model(ids[row : row + 1, :length]).logits[0, :-1]
            rows.append(torch.nn.functional.cross_entropy(logits, ids[row, 1:length]))
        return sum(rows)

    down, gate, up = family.ffn_out(layer).weight, *family.incoming(layer)
    gradients = torch.autograd.grad(loss(), [layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, down])
    expected = (gradients[0] * gate).abs().sum(dim=1) + (gradients[1] * up).abs().sum(dim=1)
    torch.testing.assert_close(found.taylor, (expected + (gradients[2] * down).abs().sum(dim=0)).detach())
