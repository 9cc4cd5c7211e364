from itertools import islice

import pytest
import torch

from optimum_flab.criteria import LAYERS as CRITERIA
from optimum_flab.families import family_for
from optimum_flab.measuring.divergence import OutputHead, final_hidden, mean_divergence, mean_divergences
from optimum_flab.pruning.components.layers import ranked_layers
from optimum_flab.running import casting

from ..conftest import LAYERS, masked_step, random_tokens, reading, tiny_model


def removals(model, criterion, number, tokens):
    order = ranked_layers(reading(model, tokens), CRITERIA[criterion])
    return list(islice(order, number))


def divergence_without(model, removed, tokens):
    architecture = family_for(model.config)
    head = OutputHead(model, architecture)
    step = masked_step(model, removed, {})
    dense, pruned = final_hidden(reading(model, tokens)), final_hidden(reading(model, tokens, step=step))
    return mean_divergence(dense, pruned, head, head)


@pytest.mark.parametrize(("fast", "tolerance"), [(False, 1e-3), (True, 0.1)])
def test_greedy_search_agrees_with_whole_forward_passes_for_every_candidate(family, monkeypatch, fast, tolerance):
    monkeypatch.setattr(casting, "multiplies_bfloat16", lambda device: fast)
    model, tokens = tiny_model(family), random_tokens()
    removed = []
    for removal in removals(model, "divergence", LAYERS - 1, tokens):
        whole = {
            layer: divergence_without(model, [*removed, layer], tokens)
            for layer in range(LAYERS)
            if layer not in removed
        }
        assert whole[removal.layer] <= (1 + tolerance) * min(whole.values())
        assert removal.score == pytest.approx(whole[removal.layer], rel=tolerance, abs=1e-6)
        removed.append(removal.layer)


@pytest.mark.parametrize("positions", [0, 1, 700])
def test_divergences_of_several_models_are_those_of_each(positions, monkeypatch):
    monkeypatch.setattr("optimum_flab.measuring.divergence.LOGITS_PER_CHUNK", 1 << 16)
    model = tiny_model("gemma3_text")
    head, generator = OutputHead(model, family_for(model.config)), torch.Generator().manual_seed(0)
    dense, *others = torch.randn(4, positions, model.config.hidden_size, generator=generator)
    others = dict(enumerate([*others, dense]))
    alone = {key: mean_divergence(dense, other, head, head) for key, other in others.items()}
    assert mean_divergences(dense, others, head) == pytest.approx(alone, abs=1e-6)


def test_a_layer_that_does_nothing_goes_first(family):
    model = tiny_model(family)
    layer = family_for(model.config).decoder_layers(model)[2]
    for name, parameter in layer.named_parameters():
        if "o_proj" in name or "down_proj" in name:
            parameter.zero_()
    for criterion in CRITERIA:
        (first,) = removals(model, criterion, 1, random_tokens())
        assert first.layer == 2, criterion
        assert first.score == pytest.approx(0, abs=1e-5)


def test_layers_that_ask_for_one_more_end_with_one_layer_left():
    assert len(removals(tiny_model("qwen2"), "divergence", 99, random_tokens())) == LAYERS - 1


def test_last_token_cosine_looks_at_the_last_token_of_each_document_only():
    model, architecture = tiny_model("llama"), family_for(tiny_model("llama").config)
    tokens = random_tokens(documents=1)
    (removal,) = removals(model, "last-token-cosine", 1, tokens)
    length = int(tokens.mask.sum())
    states = model(input_ids=tokens.input_ids[:1, :length], output_hidden_states=True).hidden_states
    # the last entry of hidden_states is behind the final norm
    turns = [
        float(1 - torch.cosine_similarity(states[i][0, -1], states[i + 1][0, -1], dim=0)) for i in range(LAYERS - 1)
    ]
    if removal.layer < LAYERS - 1:
        assert removal.score == pytest.approx(min(turns), abs=1e-5)
    assert architecture.model_type == "llama"
