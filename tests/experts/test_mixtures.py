"""What holds for every mixture of experts, on tiny models of the real classes."""

import copy
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from optimum_flab.checkpoints.surgery import operate
from optimum_flab.criteria import EXPERTS
from optimum_flab.criteria import NEURONS as NEURON_CRITERIA
from optimum_flab.families import family_for
from optimum_flab.measuring.dense_outputs import DenseOutputs
from optimum_flab.pruning.components import sizes_of
from optimum_flab.pruning.components.experts import chosen_experts, rank_experts
from optimum_flab.pruning.components.neurons import decide_neurons
from optimum_flab.pruning.plan_check import check_plan
from optimum_flab.sizes import shape_of
from optimum_flab.utils.errors import FlabError

from ..conftest import narrowed, plan_of, random_tokens, reading
from ..families.zoo import MIXED, VOCABULARY, check_stock, member


KEPT = list(range(1, VOCABULARY, 2))
NEVER = -1e9
SAMPLE = {("qwen3_moe", 0), ("deepseek_v3", 0), ("gpt_oss", 0)}  # one of each kind of router


@pytest.fixture(
    params=[
        pytest.param(one, id=f"{one[0]}-{one[1]}", marks=[] if one in SAMPLE else pytest.mark.thorough)
        for one in MIXED
    ]
)
def model(request):
    return member(*request.param)


def pruned_plan(model, family, criterion, tokens=KEPT):
    """Experts halved, two thirds of the neurons inside them, a layer with experts less."""
    sizes = sizes_of(model, family)
    number = min((n for n in sizes.possible["expert"] if n * 2 >= sizes.shape["expert"]), default=0)
    width = max(n for n in sizes.possible["neuron"] if n * 3 <= sizes.shape["neuron"] * 2)
    kept_layers = [index for index in range(sizes.shape["layer"]) if index != family.pruned_layers(model)[-1]]
    text = random_tokens(40, VOCABULARY, 24)
    scores = rank_experts(reading(model, text), EXPERTS["reap"])
    groups = family.experts.group_count(model.config)
    experts = {layer: chosen_experts(found, number, groups) for layer, found in scores.items() if layer in kept_layers}
    decided = narrowed(reading(model, text), kept_layers, width, criterion, kept_experts=experts)
    return plan_of(
        tokens,
        kept_layers,
        {index: layer.kept.tolist() for index, layer in decided.items()},
        kept_experts={layer: kept.tolist() for layer, kept in experts.items()},
        weights={
            family.in_layer(index, family.ffn_out_name): family.stored_out(layer.weight)
            for index, layer in decided.items()
            if layer.weight is not None
        },
    )


def masked(model, family, plan):
    """The dense model itself: removed layers hand their input on, removed neurons of the experts are silent."""
    model = copy.deepcopy(model)
    for index, layer in enumerate(family.decoder_layers(model)):
        if index not in plan.kept_layers:
            layer.forward = lambda hidden_states, *args, **kwargs: hidden_states
        elif index in plan.kept["expert"]:
            out = layer.get_parameter(family.ffn_out_name)
            changed = plan.weights.get(family.in_layer(index, family.ffn_out_name))
            for place, (expert, neurons) in enumerate(
                zip(plan.kept["expert"][index], plan.kept["neuron"][index], strict=True)
            ):
                matrix = family.expert_matrix(out[expert])
                weight = matrix[:, neurons] if changed is None else family.expert_matrix(changed[place])
                matrix.copy_(torch.zeros_like(matrix).index_copy(1, torch.tensor(neurons), weight))
    return model


@contextmanager
def restricted(model, family, plan, monkeypatch):
    """Within this context the routers of a dense model choose among the kept experts only."""
    gone = {}
    for index, experts in plan.kept["expert"].items():
        layer = family.decoder_layers(model)[index]
        router = layer.mlp.router if hasattr(layer.mlp, "router") else layer.mlp.gate
        gone[id(router.weight)] = [e for e in range(len(router.weight)) if e not in experts]
        if hasattr(router, "e_score_correction_bias"):
            router.e_score_correction_bias[gone[id(router.weight)]] = NEVER
    linear = torch.nn.functional.linear

    def choosing(hidden, weight, *bias):
        logits = linear(hidden, weight, *bias)
        if id(weight) in gone:
            logits[..., gone[id(weight)]] = -torch.inf
        return logits

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "linear", choosing)
        yield


@pytest.mark.parametrize(
    ("member_of", "criterion"),
    [
        pytest.param(of, criterion, marks=[] if of in SAMPLE and criterion == "obs" else pytest.mark.thorough)
        for criterion in ("obs", "random")
        for of in MIXED
        if criterion == "obs" or of[1] == 0
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]}-{value[1]}",
)
def test_surgery_equals_the_dense_model_with_its_router_restricted(member_of, criterion, tmp_path, monkeypatch):
    model = member(*member_of)
    family = family_for(model.config)
    plan = pruned_plan(model, family, criterion)
    check_plan(model, family, plan)
    operate(model, family, plan).save_pretrained(tmp_path)
    ids = torch.randint(len(KEPT), (2, 16), generator=torch.Generator().manual_seed(3))
    dense = masked(model, family, plan)
    with torch.no_grad(), restricted(dense, family, plan, monkeypatch):
        expected = dense(torch.tensor(KEPT)[ids], use_cache=False).logits[..., KEPT]
    check_stock(tmp_path, ids, expected)


@pytest.mark.thorough
def test_a_narrowing_at_full_width_changes_nothing(model):
    family, text = family_for(model.config), random_tokens(120, VOCABULARY, 24)
    width, layers = shape_of(model, family)["neuron"], family.decoder_layers(model)
    decided = narrowed(reading(model, text), range(len(layers)), width, "obs")
    assert sorted(decided) == family.pruned_layers(model)
    for index, layer in decided.items():
        dense = layers[index].get_parameter(family.ffn_out_name)
        torch.testing.assert_close(family.stored_out(layer.weight), dense, rtol=1e-3, atol=1e-3)


def reference_scores(model, family, tokens, layer):
    """REAP by its formula, from the weights of experts that are gated by SiLU, one token at a time."""
    mlp, seen = family.decoder_layers(model)[layer].mlp, []
    handle = mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0].flatten(0, 1)))
    with torch.no_grad():
        model(**tokens.model_inputs())
        handle.remove()
        hidden = seen[0][tokens.mask.flatten()]
        _, weights, experts = mlp.gate(hidden)
        norms = [[] for _ in range(len(mlp.experts.down_proj))]
        for token, (gates, chosen) in enumerate(zip(weights, experts, strict=True)):
            for gate, expert in zip(gates, chosen.tolist(), strict=True):
                inner, up = (mlp.experts.gate_up_proj[expert] @ hidden[token]).chunk(2)
                output = mlp.experts.down_proj[expert] @ (torch.nn.functional.silu(inner) * up)
                norms[expert].append(float(gate * output.norm()))
    return torch.tensor([sum(found) / max(len(found), 1) for found in norms], dtype=torch.float64)


def reference_grams(model, tokens, importance):
    """By layer and expert the sum of `c g² x xᵀ` over the tokens sent to it, `g` the factor of its output, one token
    at a time."""
    seen, grams = [], []
    handles = [
        layer.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for layer in model.model.layers
    ]
    with torch.no_grad():
        model(**tokens.model_inputs())
        for handle in handles:
            handle.remove()
        for layer, states in zip(model.model.layers, seen, strict=True):
            experts, hidden = layer.mlp.experts, states[tokens.mask]
            of_layer = torch.zeros(len(experts.down_proj), *2 * [experts.down_proj.shape[-1]])
            _, factors, chosen = layer.mlp.gate(hidden)
            for token, (gates, sent) in enumerate(zip(factors, chosen.tolist(), strict=True)):
                for gate, expert in zip(gates, sent, strict=True):
                    inner, up = (experts.gate_up_proj[expert] @ hidden[token]).chunk(2)
                    x = torch.nn.functional.silu(inner) * up
                    of_layer[expert] += importance[tokens.mask][token] * gate**2 * torch.outer(x, x)
            grams += of_layer
    return grams


def test_a_token_counts_by_the_square_of_the_factor_of_the_expert():
    model, tokens, found = member("mixtral"), random_tokens(6, VOCABULARY, 24), []
    weights = torch.rand(tokens.mask.shape, generator=torch.Generator().manual_seed(1)) * tokens.mask

    def select(statistics, widths, generator):
        found.append(statistics.whole.gram.clone())
        return {width: torch.arange(width) for width in widths}

    criterion = replace(NEURON_CRITERIA["energy"], select=select)
    layers, width = range(len(model.model.layers)), model.config.intermediate_size
    text = reading(model, tokens)
    decide_neurons(text, layers, [width], criterion, DenseOutputs(weights, text.pieces))
    for gram, expected in zip(found, reference_grams(model, tokens, weights), strict=True):
        torch.testing.assert_close(gram, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "deepseek_v3"])
def test_reap_is_what_its_formula_says(model_type):
    model = member(model_type)
    family, tokens = family_for(model.config), random_tokens(6, VOCABULARY, 24)
    found = rank_experts(reading(model, tokens, 100), EXPERTS["reap"])
    for layer in family.pruned_layers(model):
        torch.testing.assert_close(found[layer], reference_scores(model, family, tokens, layer), rtol=1e-4, atol=1e-6)


def test_scores_do_not_depend_on_batches_or_padding():
    model = member("qwen3_moe")
    tokens = random_tokens(20, VOCABULARY, 24)
    for name in ("reap", "frequency"):
        one, many = (rank_experts(reading(model, tokens, n), EXPERTS[name]) for n in (1, 100))
        for layer, scores in one.items():
            torch.testing.assert_close(scores, many[layer], rtol=1e-5, atol=1e-7)
    assert int(many[0].sum()) == tokens.tokens * model.config.num_experts_per_tok


def test_a_model_that_gives_nan_is_refused():
    model = member("mixtral")
    model.model.layers[1].mlp.experts.down_proj[:, 0, 0] = torch.nan
    with pytest.raises(FlabError, match="layer 1 has NaN or infinite activations"):
        rank_experts(reading(model, random_tokens(4, VOCABULARY, 24)), EXPERTS["reap"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept_experts": {2: [0, 4], 3: [0, 4]}, "kept_neurons": {}}, "cannot have 2 experts"),
        (
            {"kept_experts": {2: [0, 1, 4, 5], 3: [0, 1, 5, 4]}},
            "experts are not ascending numbers below the model's 8",
        ),
        ({"kept_neurons": {2: [list(range(20))] * 4, 3: [list(range(20))] * 4}}, "cannot have 20 neurons"),
        ({"kept_experts": {2: [0, 1, 2, 3], 3: [2, 3, 6, 7]}}, "experts are not the same number of each of 2 groups"),
        ({"kept_inside": {"hands": {2: [0]}}}, "it says what stays of hands, which this model lacks"),
        ({"kept_inside": {"expert": [0, 1]}}, "experts are not listed by layer"),
        ({"kept_inside": {"expert": {9: [0, 1]}}}, "experts are of layers that the model lacks"),
        ({"kept_experts": {2: [0, 1, 4, 5], 3: []}}, "experts are not the same number everywhere"),
        ({"vocab_size": 3, "kept_tokens": [0, 1, 2, 3]}, "its vocab_size is 3, but more tokens stay"),
    ],
)
def test_a_plan_that_the_model_cannot_have_is_refused(change, message):
    model = member("deepseek_v3")
    family = family_for(model.config)
    fields = {
        "kept_tokens": None,
        "kept_layers": [0, 1, 2, 3],
        "kept_neurons": {2: [list(range(24))] * 4, 3: [list(range(24))] * 4},
        "kept_experts": {2: [0, 1, 4, 5], 3: [2, 3, 6, 7]},
        "vocab_size": VOCABULARY,
    }
    check_plan(model, family, plan_of(**fields))
    with pytest.raises(FlabError, match=message):
        check_plan(model, family, plan_of(**{**fields, **change}))
