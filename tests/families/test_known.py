"""What holds for every known family, on tiny models of the real classes."""

import copy
import inspect

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from optimum_flab.checkpoints.hashes import weights_hash
from optimum_flab.checkpoints.self_check import check_family
from optimum_flab.checkpoints.surgery import operate
from optimum_flab.criteria import NEURONS as CRITERIA
from optimum_flab.families import family_for, known_families
from optimum_flab.families.resizing import resized_config
from optimum_flab.measuring.divergence import OutputHead, final_hidden
from optimum_flab.pruning.components.neurons import decide_neurons
from optimum_flab.pruning.plan_check import check_plan
from optimum_flab.records.shards import shards
from optimum_flab.running.casting import cast_by_layer, copy_in
from optimum_flab.sizes import Shape, count_parameters, shape_of
from optimum_flab.tensors.lazy import StoredTensors, WrittenTensors
from optimum_flab.texts.packing import PackedTokens

from ..conftest import narrowed, plan_of, random_tokens, reading
from .zoo import EVERY, LAYERS, MEMBERS, MIXED, VOCABULARY, check_stock, member


KEPT = list(range(1, VOCABULARY, 2))


# of each kind of block, of tensors and of norms
KINDS = {"cohere", "deepseek_v3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "granite", "llama", "phi3", "qwen2"}


def sampled(members, families=None):
    """One model of every family, or of some; the others, and further options, are for `--thorough`."""
    return [
        pytest.param(
            one,
            id=f"{one[0]}-{one[1]}",
            marks=pytest.mark.thorough if one[1] or (families and one[0] not in families) else [],
        )
        for one in members
    ]


@pytest.fixture(params=sampled(MEMBERS, KINDS))
def model(request):
    return member(*request.param)


@pytest.fixture(params=sampled([*MEMBERS, *MIXED]))
def anyone(request):
    return member(*request.param)


@pytest.fixture(params=sampled([*MEMBERS, *MIXED], KINDS))
def some(request):
    return member(*request.param)


def test_every_known_family_is_here():
    assert sorted(EVERY) == known_families()


def test_the_self_check_passes(anyone):
    model = anyone
    check_family(model, family_for(model.config))


def test_every_parameter_is_counted_once(anyone):
    model = anyone
    family = family_for(model.config)
    counts, shape = count_parameters(model, family), shape_of(model, family)
    assert counts.total(shape) == sum(parameter.numel() for parameter in model.parameters())
    if family.experts is None:
        ffn = (
            f"{family.block.ffn_out}.bias",
            *(name for name, _, _ in family.neuron_tensors(family.decoder_layers(model)[0])),
        )
        assert counts.parts(shape)["ffn"] == sum(
            parameter.numel() for name, parameter in model.named_parameters() if family.layer_of(name)[1] in ffn
        )
    fixed, sizes = counts.fixed_layers, {"neuron": 8, "vocab": 40}
    layers = [index for index in range(LAYERS) if index not in family.pruned_layers(model)[1:]]
    if family.experts is not None:
        sizes["expert"] = family.experts.fewest(model.config)
    with torch.device("meta"):
        other = AutoModelForCausalLM.from_config(resized_config(model.config, family, layers, sizes))
    other.tie_weights()
    assert shape_of(other, family) == Shape(sizes, layer=fixed + 1)
    assert counts.total(shape_of(other, family)) == sum(parameter.numel() for parameter in other.parameters())


def test_a_model_and_its_checkpoint_have_one_hash(anyone, tmp_path):
    model = anyone
    model.save_pretrained(tmp_path)
    stored = StoredTensors(shards(tmp_path))
    assert sorted(WrittenTensors(model)) == sorted(stored) and weights_hash(model) == weights_hash(stored)


def masked(model, family, plan):
    """The dense model itself, with removed layers handing their input on and removed neurons silent."""
    model = copy.deepcopy(model)
    for index, layer in enumerate(family.decoder_layers(model)):
        if index not in plan.kept_layers:
            layer.forward = lambda hidden_states, *args, **kwargs: hidden_states
            continue
        matrix = family.ffn_out_matrix(layer)
        gone = sorted(set(range(matrix.shape[1])) - set(plan.kept["neuron"][index]))
        weight = plan.weights.get(family.in_layer(index, family.ffn_out_name))
        if weight is not None:
            matrix[:, plan.kept["neuron"][index]] = family.matrix(weight)
        matrix[:, gone] = 0
    return model


def pruned_plan(model, family, criterion, kept_layers=(0, 2, 3)):
    width = shape_of(model, family)["neuron"] * 3 // 4
    text = reading(model, random_tokens(40, VOCABULARY, 24))
    decided = narrowed(text, kept_layers, width, criterion)
    return plan_of(
        KEPT,
        list(kept_layers),
        {index: layer.kept.tolist() for index, layer in decided.items()},
        weights={
            family.in_layer(index, family.ffn_out_name): family.matrix(layer.weight)
            for index, layer in decided.items()
            if layer.weight is not None
        },
    )


@pytest.mark.parametrize(
    ("member_of", "criterion"),
    [pytest.param(of, "obs", marks=pytest.mark.thorough if of[1] or of[0] not in KINDS else []) for of in MEMBERS]
    + [((of, 0), "random") for of in ("gemma2", "gpt2", "gpt_neox", "llama", "phi3")],
    ids=lambda value: value if isinstance(value, str) else f"{value[0]}-{value[1]}",
)
def test_surgery_equals_the_masked_dense_model(member_of, criterion, tmp_path):
    model = member(*member_of)
    family = family_for(model.config)
    plan = pruned_plan(model, family, criterion)
    check_plan(model, family, plan)
    operate(model, family, plan).save_pretrained(tmp_path)
    ids = torch.randint(len(KEPT), (2, 16), generator=torch.Generator().manual_seed(3))
    expected = masked(model, family, plan)(torch.tensor(KEPT)[ids], use_cache=False).logits[..., KEPT]
    check_stock(tmp_path, ids, expected)


def test_a_narrowing_at_full_width_changes_nothing(model):
    family = family_for(model.config)
    width, tokens = shape_of(model, family)["neuron"], random_tokens(60, VOCABULARY, 24)
    text = reading(model, tokens)
    exactly = narrowed(text, range(LAYERS), width, "obs")
    roughly = decide_neurons(text.part("survey"), range(LAYERS), [width], CRITERIA["obs"])[width]
    for index, layer in exactly.items():
        dense = family.ffn_out_matrix(family.decoder_layers(model)[index])
        torch.testing.assert_close(layer.weight, dense, rtol=1e-3, atol=1e-3)
    for index, layer in roughly.items():
        dense = family.ffn_out_matrix(family.decoder_layers(model)[index])
        torch.testing.assert_close(layer.weight.float(), dense, rtol=1e-2, atol=1e-2)


def test_cast_a_layer_at_a_time_a_model_computes_as_a_copy_of_it(some):
    model = some
    family, tokens = family_for(model.config), random_tokens(20, VOCABULARY, 24)
    rounded = copy_in(model, torch.device("cpu"), torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in rounded.state_dict().items()}
    copied = copy_in(rounded, torch.device("cpu"), torch.float32)
    outer, step = cast_by_layer(rounded, family, torch.device("cpu"), torch.float32)
    hidden = final_hidden(reading(outer, tokens, step=step))
    assert hidden.dtype == torch.float32
    assert torch.equal(hidden, final_hidden(reading(copied, tokens)))
    assert torch.equal(OutputHead(outer, family).logits(hidden), OutputHead(copied, family).logits(hidden))
    for name, tensor in rounded.state_dict().items():
        assert tensor.dtype == before[name].dtype and torch.equal(tensor, before[name])


def test_documents_of_one_row_do_not_see_each_other(anyone):
    model = anyone
    ids = torch.randint(VOCABULARY, (1, 12), generator=torch.Generator().manual_seed(3))
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]

    def read(*columns):
        rows = (ids[:, slice(*columns)], positions[:, slice(*columns)])
        packed = PackedTokens(*rows, torch.ones_like(rows[0], dtype=torch.bool))
        return final_hidden(reading(model, packed))

    torch.testing.assert_close(read(0, 12), torch.cat([read(0, 5), read(5, 12)]), rtol=1e-4, atol=1e-4)
    alone = model.base_model(ids[:, :5], use_cache=False).last_hidden_state[0, :4]
    torch.testing.assert_close(read(0, 5), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model_type", known_families())
def test_the_classes_offer_no_option_that_names_layers_unseen(model_type):
    fields = inspect.signature(CONFIG_MAPPING[model_type].__init__).parameters
    family = family_for(member(model_type).config)
    lists = {name for name in fields if name.endswith(("layer_types", "_layers", "layers_types")) and name[0] != "_"}
    mixed = () if family.experts is None else family.experts.fields.values()
    known = {*family.per_layer, *family.layer_counts, family.sizes["layer"], *mixed}
    known |= {name for name, other in CONFIG_MAPPING[model_type].attribute_map.items() if other in family.absent}
    assert lists <= known | {"pretraining_tp"}, lists - known
