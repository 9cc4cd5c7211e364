from dataclasses import replace

import pytest
import torch

from optimum_flab.criteria import NEURONS as CRITERIA
from optimum_flab.families import family_for
from optimum_flab.measuring.divergence import OutputHead, final_hidden, mean_divergence
from optimum_flab.pruning.components.deciding import fold_of_tokens
from optimum_flab.pruning.components.neurons import decide_neurons
from optimum_flab.running.layerwise import layer_inputs, run_block, run_layer
from optimum_flab.utils.errors import FlabError

from ..conftest import LAYERS, WIDTH, dense_of, masked_step, narrowed, random_tokens, reading, tiny_model


def divergence(model, architecture, narrowed, removed=frozenset(), tokens=None):
    tokens = tokens or random_tokens(seed=9)
    head = OutputHead(model, architecture)
    step = masked_step(model, removed, narrowed)
    dense, pruned = final_hidden(reading(model, tokens)), final_hidden(reading(model, tokens, step=step))
    return mean_divergence(dense, pruned, head, head)


def narrowed_by(model, criterion, width, tokens, kept_layers=range(LAYERS)):
    return narrowed(reading(model, tokens), kept_layers, width, criterion)


def test_full_width_on_all_layers_changes_nothing(family):
    model, tokens = tiny_model(family), random_tokens(200)
    decided = narrowed_by(model, "obs", WIDTH, tokens)
    assert divergence(model, family_for(model.config), decided) < 1e-4


def test_compensated_elimination_is_nearer_to_dense_than_the_first_neurons(family):
    model, tokens = tiny_model(family), random_tokens(200)
    architecture = family_for(model.config)
    ours = divergence(model, architecture, narrowed_by(model, "obs", WIDTH * 3 // 4, tokens))
    first = divergence(model, architecture, narrowed_by(model, "first", WIDTH * 3 // 4, tokens))
    assert ours < first / 1.5


def test_narrowing_makes_up_for_a_removed_layer():
    model, tokens = tiny_model("qwen2"), random_tokens(200)
    architecture = family_for(model.config)
    kept = [0, 2, 3]
    decided = narrowed_by(model, "obs", WIDTH, tokens, kept)
    assert sorted(decided) == kept
    assert divergence(model, architecture, decided, {1}) < divergence(model, architecture, {}, {1})


def test_the_sequential_pass_is_no_worse_than_the_survey():
    model, tokens = tiny_model("llama"), random_tokens(200)
    architecture = family_for(model.config)
    width = WIDTH // 2
    independent = decide_neurons(reading(model, tokens), range(LAYERS), [width], CRITERIA["obs"])[width]
    sequential = narrowed_by(model, "obs", width, tokens)
    assert divergence(model, architecture, sequential) < divergence(model, architecture, independent)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_narrows_every_layer_and_leaves_the_model_alone(criterion):
    model = tiny_model("gemma3_text")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    decided = narrowed_by(model, criterion, 40, random_tokens())
    assert sorted(decided) == list(range(LAYERS))
    for layer in decided.values():
        assert len(layer.kept) == 40
        assert (layer.weight is not None) == CRITERIA[criterion].compensates
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_layer_whose_neurons_are_not_numbers_is_named():
    model = tiny_model("llama")
    family = family_for(model.config)
    family.incoming(family.decoder_layers(model)[2])[0][0, 0] = torch.nan
    with pytest.raises(FlabError, match="layer 2 has NaN"):
        narrowed_by(model, "obs", WIDTH // 2, random_tokens())


def test_a_layer_from_whose_neurons_nothing_can_be_computed_is_named():
    def overflows(*_):
        raise FloatingPointError("too large")

    tokens, model = random_tokens(), tiny_model("llama")
    criterion = replace(CRITERIA["obs"], select=overflows)
    with pytest.raises(FlabError, match=r"layer 0: nothing can be computed .* \(too large\)"):
        decide_neurons(reading(model, tokens), range(LAYERS), [32], criterion, dense_of(reading(model, tokens)))


def test_what_tokens_weigh_decides_what_stays():
    model, tokens = tiny_model("llama"), random_tokens(60)
    uneven = torch.rand(tokens.mask.shape, generator=torch.Generator().manual_seed(0)) ** 8
    dense = dense_of(reading(model, tokens))
    alike, other = (
        decide_neurons(reading(model, tokens), range(LAYERS), [32], CRITERIA["obs"], outputs)[32]
        for outputs in (dense, replace(dense, weights=uneven))
    )
    assert not any(alike[index].kept.equal(other[index].kept) for index in alike)


def test_a_run_of_a_block_says_what_its_ffn_saw(family):
    model, tokens = tiny_model(family), random_tokens()
    family = family_for(model.config)
    inputs, layer = layer_inputs(model, family, tokens), family.decoder_layers(model)[0]
    with torch.no_grad():
        run = run_block(family, model.config, layer, inputs.hidden, inputs.kwargs[0])
        assert run.after.equal(run_layer(layer, inputs.hidden, inputs.kwargs[0]))
        assert run.output.equal(family.ffn_out(layer)(run.neurons))
        norm = family.block.ffn_post_norm
        added = run.output if norm is None else layer.get_submodule(norm)(run.output)
        torch.testing.assert_close(run.stream + family.block.scale(model.config) * added, run.after)


def test_rows_take_turns_in_folds_across_batches():
    tokens = random_tokens(200)
    folds = torch.cat(fold_of_tokens(reading(tiny_model("llama"), tokens, 3)))
    turns = (torch.arange(len(tokens.mask)) % 2)[:, None].expand(tokens.mask.shape)
    assert folds.equal(turns)


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
@pytest.mark.parametrize("criterion", ["obs", "energy"])
def test_the_error_of_the_survey_is_the_share_of_the_stream_that_changes(name, criterion):
    """For the lowest layer, whose norm behind the FFN, if it has one, is taken as linear."""
    model, tokens, width = tiny_model(name), random_tokens(200), WIDTH * 3 // 4
    text = reading(model, tokens)
    surveyed = decide_neurons(text, range(LAYERS), [width], CRITERIA[criterion])[width]
    family, found = family_for(model.config), 0.0
    layer, narrow = family.decoder_layers(model)[0], surveyed[0]
    dense = family.ffn_out_matrix(layer).detach().float()
    change = dense.clone()
    change[:, narrow.kept] = 0 if narrow.weight is None else dense[:, narrow.kept] - narrow.weight.float()
    for x, mask in zip(text.inputs, text.masks, strict=True):
        with torch.no_grad():
            run = run_block(family, model.config, layer, x.hidden, x.kwargs[0])
        error = (run.neurons.float() @ change.T).square().sum(dim=-1) / run.after.float().square().sum(dim=-1)
        if family.block.ffn_post_norm is not None:
            error *= (run.after - run.stream).square().sum(dim=-1) / run.output.square().sum(dim=-1)
        found += float(error[mask].sum())
    kept = text.kept(0)[f"{width}.error"]
    assert float(kept) == pytest.approx(found, rel=0.03)
    assert surveyed.error == pytest.approx(sum(float(text.kept(index)[f"{width}.error"]) for index in range(LAYERS)))


def test_the_best_fit_is_looked_for_in_the_lowest_layer_and_in_one_of_four_above():
    model, tokens = tiny_model("llama", num_hidden_layers=7), random_tokens(200)
    text = reading(model, tokens)
    narrowed(text, range(7), WIDTH // 2, "obs")
    fits = [text.kept(index)["fit"].tolist() for index in range(7)]
    assert fits[1] == fits[2] == fits[3] == fits[4] != fits[5] == fits[6] and fits[0] != fits[1]
