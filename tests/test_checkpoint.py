"""The files of a pruned model: transformers 5 reads from them what was meant; for version 4 see
`test_transformers4.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from optimum_flab.checkpoints.saving import older_names, save_checkpoint
from optimum_flab.checkpoints.surgery import operate
from optimum_flab.families import family_for
from optimum_flab.records.checkpoint import Checkpoint

from .conftest import byte_level_tokenizer, tiny_model
from .families.zoo import member
from .rope import PLAIN, ROPES, rope_like, rope_of
from .test_surgery import plan_for


TOKENS = 600
FACTORS = {name: ROPES["longrope"][name][:4] for name in ("short_factor", "long_factor")}
BASES = {"full_attention": 500_000.0, "sliding_attention": 10_000.0}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer(TOKENS)


@pytest.fixture
def saved(family, tokenizer, tmp_path):
    """Saves a pruned model of the family with a rotary embedding; returns it and the folder."""

    def save(rope: str, local: str = "default") -> tuple[torch.nn.Module, Path]:
        dense = tiny_model(family, TOKENS, rope_parameters=rope_of(family, rope, local))
        plan, _ = plan_for(dense, kept_tokens=list(range(TOKENS)))
        model = operate(dense, family_for(dense.config), plan)
        model.config.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        # of the class that transformers takes beside such a model
        save_checkpoint(model, AutoTokenizer.from_pretrained(tmp_path), tmp_path / "out", family_for(model.config))
        return model, tmp_path / "out"

    return save


@pytest.mark.parametrize("rope", ROPES)
def test_it_is_read_as_it_was_and_written_again_the_same(rope, saved, tmp_path):
    model, folder = saved(rope)
    read = AutoConfig.from_pretrained(folder)
    assert read.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    again, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.arange(100)[None]
    assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
    save_checkpoint(again, AutoTokenizer.from_pretrained(folder), tmp_path / "again", family_for(again.config))
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "again").iterdir())
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("rope", [rope for rope in ROPES if rope != "longrope"])
def test_the_older_names_say_the_same(family, rope, saved):
    _, folder = saved(rope)
    fields, own = json.loads((folder / "config.json").read_text()), rope_of(family, rope)
    if family == "gemma3_text":
        assert fields["rope_local_base_freq"] == own["sliding_attention"]["rope_theta"]
        own = own["full_attention"]
    assert fields["rope_theta"] == own["rope_theta"] and fields["torch_dtype"] == fields["dtype"] == "float32"
    scaling = {name: value for name, value in own.items() if name != "rope_theta"}
    assert fields.get("rope_scaling") == (None if rope == "default" else scaling)
    assert Checkpoint(folder).transformers == "4.57"


@pytest.mark.parametrize("family", ["gemma3_text"])
@pytest.mark.parametrize(("rope", "local"), [("default", "linear"), ("longrope", "default")])
def test_what_version_4_has_no_words_for_it_refuses(family, rope, local, saved):
    """It knows no class of this name, where it would else compute another model without a word."""
    _, folder = saved(rope, local)
    assert "rope_theta" not in json.loads((folder / "config.json").read_text())
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "TokenizersBackend"
    assert Checkpoint(folder).transformers == "5.0"


@pytest.mark.parametrize(
    ("model_type", "kind", "changes", "names"),
    [
        ("gpt_neox", "default", {}, {"rotary_emb_base": 500_000.0, "rotary_pct": 0.25}),
        ("glm", "linear", {}, {"partial_rotary_factor": 0.5, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
        ("qwen3_moe", "default", {}, {"num_experts": 8, "rope_theta": 500_000.0}),
        ("phi3", "longrope", {}, {"rope_scaling": {"type": "longrope", **FACTORS}}),
        ("nemotron", "linear", {}, None),
        ("gpt_oss", "yarn", {}, {"rope_theta": 500_000.0}),
        ("gpt_oss", "yarn", {"swiglu_limit": 1.0}, None),
        ("olmo3", "yarn", {}, {"rope_theta": 500_000.0}),
        (
            "olmo3",
            "default",
            {"rope_parameters": {kind: {**PLAIN, "rope_theta": n} for kind, n in BASES.items()}},
            None,
        ),
    ],
)
def test_older_names_of_families_that_have_their_own(model_type, kind, changes, names):
    fields = {"max_position_embeddings": 256, **rope_like(member(model_type).config, kind), **changes}
    config = member(model_type, **fields).config
    found = older_names(config, family_for(config).older)
    assert (found == {}) if names is None else (names.items() <= found.items())
