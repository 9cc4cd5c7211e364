"""A wrong fact in the description of a family is refused by the self-check, whichever it is."""

import copy
import json

import pytest
import torch

from optimum_flab import FlabPrunerConfig
from optimum_flab.checkpoints.self_check import check_family
from optimum_flab.families import family_for, known_families
from optimum_flab.families.axes import DIMENSIONS
from optimum_flab.families.schema import Family
from optimum_flab.pruning.components import sizes_of
from optimum_flab.utils.errors import ConfigurationError, FlabError

from ..conftest import request_for, thorough_but
from .zoo import EVERY, member


def planted(facts, model):
    """Every fact that counts for this model, wrong, one at a time, each with what it is about."""
    family, config = Family.model_validate(facts), model.config

    def changed(*path, to):
        wrong = copy.deepcopy(facts)
        at = wrong
        for name in path[:-1]:
            at = at[name]
        at[path[-1]] = to
        return ".".join(map(str, path)), wrong

    for name in facts["modules"]:
        yield changed("modules", name, to="model.elsewhere")
        for other in facts["modules"]:
            if other != name:
                yield changed("modules", name, to=facts["modules"][other])
    used = {name for name in facts["tensors"] for tensor in model.state_dict() if _names(family, name, tensor)}
    for name in sorted(used):
        axes = facts["tensors"][name]
        wrong = {key: value for key, value in facts["tensors"].items() if key != name}
        yield changed("tensors", to=wrong)
        yield changed("tensors", name, to=[*axes, None])
        for place, axis in enumerate(axes):
            # what nothing cuts yet is only there to be complete
            if axis in ("vocab", "neuron", "neuron*2", "2*neuron", "expert"):
                yield changed("tensors", name, to=[*axes[:place], None, *axes[place + 1 :]])
                for other in DIMENSIONS:
                    if other in facts["sizes"] and other != axis:
                        yield changed("tensors", name, to=[*axes[:place], other, *axes[place + 1 :]])
                if "*" in axis:
                    swapped = {"neuron*2": "2*neuron", "2*neuron": "neuron*2"}[axis]
                    for other in ("neuron", swapped):
                        yield changed("tensors", name, to=[*axes[:place], other, *axes[place + 1 :]])
    for name in ("vocab", "layer", "neuron"):
        yield changed("sizes", name, to="no_such_field")
        yield changed("sizes", name, to=facts["sizes"]["hidden"])
    for name in facts["per_layer"]:
        if getattr(config, name, None) is not None:
            yield changed("per_layer", to=[other for other in facts["per_layer"] if other != name])
    block = facts["block"]
    yield changed("block", "attention_out", to=block["ffn_out"])
    yield changed("block", "ffn_out", to=block["attention_out"])
    for name in ("attention_post_norm", "ffn_post_norm"):
        if block[name]:
            yield changed("block", name, to=None)
        for path, _ in family.decoder_layers(model)[0].named_modules():
            if "norm" in path and path.count(".") == 0 and path != block[name]:
                yield changed("block", name, to=path)
    yield changed("block", "residual_scale", to="num_hidden_layers")
    if block["residual_scale"]:
        yield changed("block", "residual_scale", to=None)
    for name, field in facts["logits"].items():
        yield changed("logits", name, to="num_hidden_layers")
        if field is not None and getattr(config, field) not in (None, 1.0):
            yield changed("logits", name, to=None)
    for name, fact in (facts["experts"] or {}).items():
        # how few experts a router can do with is not shown by a model that has more
        if fact is None or name in ("groups_per_token", "fewest_in_group"):
            continue
        yield changed("experts", name, to="no_such_name")
        if name not in ("module", "out", "per_token") and _counts(model, family, name):
            yield changed("experts", name, to=None)
    if facts["experts"]:
        yield changed("experts", "per_token", to=facts["sizes"]["expert"])
        yield changed("experts", "out", to=next(n for n in ("gate_up_proj",) if n != facts["experts"]["out"]))
        yield changed("experts", to=None)
        yield changed("sizes", "expert", to=facts["sizes"]["hidden"])
    yield changed("absent", to={"no_such_field": 0})
    yield changed("absent", to={facts["sizes"]["hidden"]: 2})
    if not facts["separates_documents"]:
        yield changed("separates_documents", to=True)
    yield changed("norm", "kind", to="layer" if facts["norm"]["kind"] == "rms" else "rms")
    if family_weight(model, family) is not None:
        yield changed("norm", "offset", to=1 - facts["norm"]["offset"])


def _counts(model, family, name):
    """Whether a fact about experts makes a difference for this model."""
    found = getattr(model.config, getattr(family.experts, name))
    if name == "groups":  # a router that chooses all groups chooses none
        return (found or 1) > 1 and getattr(model.config, family.experts.groups_per_token) < found
    return bool(found) if name == "dense_layers" else found not in (None, 1) or name == "shared"


def family_weight(model, family):
    return getattr(model.get_submodule(family.modules.final_norm), "weight", None)


def _names(family, pattern, tensor):
    alone = Family.model_validate({**family.model_dump(), "tensors": {pattern: family.tensors[pattern]}})
    return alone.axes(tensor) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.gradient_checkpointing_enable(),
        lambda model: setattr(model.config, "tags", ["a"] * len(model.model.layers)),
        lambda model: setattr(model.model.layers[1], "mine", 1),
        lambda model: model.train().eval(),
    ],
)
def test_what_is_no_fact_of_the_family_is_not_asked_for(change):
    model = member("llama")
    change(model)
    check_family(model.eval(), family_for(model.config))


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("dtype", thorough_but(2, [torch.float32, torch.float16, torch.bfloat16]), ids=str)
@pytest.mark.parametrize("model_type", thorough_but(2, ["gpt2", "gemma2", "llama", "cohere"]))
def test_small_and_coarse_models_are_no_alarm(model_type, dtype, layers):
    name = "n_layer" if model_type == "gpt2" else "num_hidden_layers"
    changes = {"layer_types": ["full_attention"] * layers} if model_type == "gemma2" else {}
    model = member(model_type, 0, vocab_size=7, **{name: layers}, **changes).to(dtype)
    check_family(model, family_for(model.config))


def test_nan_is_for_what_measures_to_say():
    model = member("llama")
    model.model.layers[2].mlp.down_proj.weight[0, 0] = torch.nan
    check_family(model, family_for(model.config))


def test_layers_that_are_bound_to_their_positions_all_stay():
    model = member("gpt2", 0, scale_attn_by_inverse_layer_idx=True)
    family = family_for(model.config)
    check_family(model, family)
    sizes = sizes_of(model, family)
    assert list(sizes.possible["layer"]) == [5] and len(sizes.possible["neuron"]) == 48
    with pytest.raises(ConfigurationError, match=r"cannot have 4 \(its layers depend on their .*use one of 5"):
        request_for(FlabPrunerConfig(num_hidden_layers=4), sizes)
    with pytest.raises(FlabError, match=r"per_layer: layer 1 .* different attn.scaling .*`bound_layers`"):
        check_family(model, family.model_copy(update={"bound_layers": False}))


def as_real(model, family, dtype):
    """Small weights in the layers, and a stream with one channel much larger than all others, as in real models."""
    for name, tensor in model.named_parameters():
        if family.layer_of(name)[0] is not None and tensor.ndim > 1:
            tensor.mul_(0.02 / 0.3)
    model.get_submodule(family.modules.embeddings).weight[:, 3] += 200
    return model.to(dtype)


# one of each kind of block, of tensors and of norms, with weights as real models have them
REAL = ("cohere", "deepseek_v3", "gemma2", "gpt2", "granite")


# what `make test` tries: the families of the models in README, one mixture, and one with weights as real models have
SAMPLE = {("gpt2", None), ("qwen3_moe", None)}


@pytest.mark.parametrize(
    ("model_type", "dtype"),
    [
        pytest.param(model_type, dtype, marks=[] if (model_type, dtype) in SAMPLE else pytest.mark.thorough)
        for model_type, dtype in (
            *((model_type, None) for model_type in known_families()),
            *((model_type, torch.bfloat16) for model_type in REAL),
        )
    ],
)
def test_a_planted_fault_is_refused(model_type, dtype):
    missed, tried = [], set()
    for number in range(len(EVERY[model_type])):
        model = member(model_type, number)
        family = family_for(model.config)
        model = model if dtype is None else as_real(model, family, dtype)
        check_family(model, family)
        facts = json.loads(family.model_dump_json())
        for what, wrong in planted(facts, model):
            # each once, on the first model that it counts for
            if wrong == facts or (written := json.dumps(wrong)) in tried:
                continue
            tried.add(written)
            try:
                check_family(model, Family.model_validate(wrong))
            except FlabError as error:
                assert "does not match the description of its family" in str(error)
            else:
                missed.append((number, what))
    assert not missed and len(tried) > 40, missed
