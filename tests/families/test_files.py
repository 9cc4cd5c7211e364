"""Families that users bring, and what is said of those that nobody described."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer

from optimum_flab import FlabOptimizer
from optimum_flab.checkpoints.self_check import check_family
from optimum_flab.checkpoints.stored_model import check_belongs_together
from optimum_flab.families import family_for, files, known_families, read_family
from optimum_flab.inspection import inspect_model
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.running.layer_pass import LayerPass
from optimum_flab.utils.errors import ConfigurationError, FlabError

from ..conftest import TEXTS, byte_level_tokenizer, narrowed, random_tokens, saved, small_config, thorough_but
from .zoo import MIXTURES, member


GPTS = ("codegen", "gpt2", "gpt_bigcode")
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
ERNIE = {"model_type": "ernie4_5", "like": "llama", "transformers": ">=5.0"}
PERSIMMON = {
    "model_type": "persimmon",
    "like": "phi",
    "transformers": ">=5.0",
    "tensors": {
        "{layer}.self_attn.query_key_value.weight": [None, "hidden"],
        "{layer}.self_attn.query_key_value.bias": [None],
        "{layer}.mlp.dense_h_to_4h.weight": ["neuron", "hidden"],
        "{layer}.mlp.dense_h_to_4h.bias": ["neuron"],
        "{layer}.mlp.dense_4h_to_h.weight": ["hidden", "neuron"],
        "{layer}.mlp.dense_4h_to_h.bias": ["hidden"],
    },
    "block": {"ffn_out": "mlp.dense_4h_to_h"},
}

OPT = {
    "model_type": "opt",
    "like": "llama",
    "transformers": ">=5.0",
    "modules": {
        **{"layers": "model.decoder.layers", "embeddings": "model.decoder.embed_tokens"},
        "final_norm": "model.decoder.final_layer_norm",
    },
    "tensors": {
        "model.decoder.embed_positions.weight": [None, "hidden"],
        **{f"{{layer}}.self_attn.{name}_proj.weight": [None, "hidden"] for name in "kv"},
        **{f"{{layer}}.self_attn.{name}_proj.bias": [None] for name in "kv"},
        "{layer}.self_attn.out_proj.weight": ["hidden", None],
        **{f"{{layer}}.{name}_layer_norm.weight": ["hidden"] for name in ("self_attn", "final")},
        **{f"{{layer}}.{name}.bias": ["hidden"] for name in ("self_attn.out_proj", "fc2")},
        **{f"{{layer}}.{name}_layer_norm.bias": ["hidden"] for name in ("self_attn", "final")},
        "{layer}.fc1.weight": ["neuron", "hidden"],
        "{layer}.fc1.bias": ["neuron"],
        "{layer}.fc2.weight": ["hidden", "neuron"],
    },
    "sizes": {"neuron": "ffn_dim"},
    "separates_documents": False,
    "position_table": True,
    "block": {"attention_out": "self_attn.out_proj", "ffn_out": "fc2"},
    "norm": {"kind": "layer"},
}


def stranger(facts, vocab_size=600, **changes):
    config = CONFIG_MAPPING[facts["model_type"]](vocab_size=vocab_size, **SIZES, **changes)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().requires_grad_(False)


def written(folder, facts, name="family.json"):
    (folder / name).write_text(json.dumps(facts))
    return folder / name


@pytest.fixture
def strangers(tmp_path_factory, monkeypatch):
    """The package without the families that these tests take for unknown ones: it may get to know them."""
    known = tmp_path_factory.mktemp("known")
    for path in files.KNOWN.glob("*.json"):
        if path.stem not in ("ernie4_5", "olmoe", "opt", "persimmon"):
            (known / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(files, "KNOWN", known)
    files.known_family.cache_clear()
    yield
    files.known_family.cache_clear()


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize("facts", [ERNIE, PERSIMMON], ids=lambda facts: facts["model_type"])
def test_a_family_of_the_user(facts, tmp_path):
    model = stranger(facts)
    with pytest.raises(FlabError, match="is not supported; .*name it as `family`"):
        family_for(model.config)
    check_family(model, family_for(model.config, written(tmp_path, facts)))


def test_an_ffn_that_reads_the_rows_of_a_batch_as_one(tmp_path):
    """As that of OPT does: refitted with all of its neurons, it is what it was."""
    model = stranger(OPT, 160, ffn_dim=48, word_embed_proj_dim=32, init_std=0.3)
    family, tokens = family_for(model.config, written(tmp_path, OPT)), random_tokens(60, 160, 24)
    check_family(model, family)
    for index, layer in narrowed(LayerPass(model, family, tokens, 4), range(3), 48, "obs").items():
        dense = family.ffn_out_matrix(family.decoder_layers(model)[index])
        torch.testing.assert_close(layer.weight, dense, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("strangers")
def test_it_goes_all_the_way_and_stays_with_what_was_pruned(tmp_path):
    file, dense, out = written(tmp_path, PERSIMMON), tmp_path / "dense", tmp_path / "out"
    saved(stranger(PERSIMMON), dense)
    with pytest.raises(FlabError, match="'persimmon' is not supported"):
        FlabOptimizer.from_pretrained(dense)
    assert inspect_model(str(dense), family=file).sizes.shape["neuron"] == 64
    sizes = {"num_hidden_layers": 2, "intermediate_size": 40, "ffn": {"multiple_of": 8}}
    optimizer = FlabOptimizer.from_pretrained(dense, device="cpu", family=file)
    optimizer.prune(small_config(tmp_path, **sizes))
    optimizer.save_pretrained(out)
    assert read_family(out / "flab_family.json") == read_family(file)
    pruned = AutoConfig.from_pretrained(out)
    assert (pruned.num_hidden_layers, pruned.intermediate_size) == (2, 40) and pruned.vocab_size < 600
    # what lies beside the pruned model is read without being named again
    assert FlabOptimizer.from_pretrained(out, device="cpu").family == read_family(file)
    optimizer.load_pruned(out)


# one of each kind of block, of tensors, and of tokens in the configuration
@pytest.mark.parametrize(
    "model_type",
    thorough_but(
        2,
        [
            *("gpt2", "deepseek_v2", "phi3", "qwen2"),
            *("codegen", "gemma2", "gpt_bigcode", "gpt_neox", "granite", "starcoder2", "gpt_oss", "mixtral"),
        ],
    ),
)
def test_a_known_family_goes_all_the_way(model_type, tmp_path):
    """Search, surgery and measurement with a real tokenizer, written and read again by anybody."""
    size = {"vocab_size": 600, "max_position_embeddings": 256}
    dense = member(model_type, 0, **({"vocab_size": 600, "n_positions": 256} if model_type in GPTS else size))
    optimizer = FlabOptimizer.from_pretrained(saved(dense, tmp_path / "dense"), device="cpu")
    pruned = optimizer.prune(small_config(tmp_path, target_ratio=0.3, experts={"enabled": model_type in MIXTURES}))
    assert pruned.report.held_out.divergence >= 0
    optimizer.save_pretrained(tmp_path / "out")
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not (info["missing_keys"] or info["unexpected_keys"] or info["mismatched_keys"])
    check_belongs_together(Checkpoint(tmp_path / "out"))  # as a push does
    text = TEXTS[0][:80]
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")(text, return_tensors="pt")["input_ids"]
    assert ids.tolist() == pruned.tokenizer(text, return_tensors="pt")["input_ids"].tolist()
    torch.testing.assert_close(loaded(ids).logits, pruned.model(ids).logits)


def test_a_known_family_is_not_written(tmp_path):
    from optimum_flab.families import save_family

    for model_type in known_families():
        save_family(read_family_of(model_type), tmp_path)
    assert list(tmp_path.iterdir()) == []


def read_family_of(model_type):
    from optimum_flab.families.files import known_family

    return known_family(model_type)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"tensors": {"{layer}.x": ["neurons"]}}, "tensors.{layer}.x.0: String should match pattern"),
        ({"tensors": {"{layer}.x": "neuron"}}, "tensors.{layer}.x"),
        ({"sizes": {"width": "intermediate_size"}}, "sizes.width"),
        ({"norms": "rms"}, "norms: Extra inputs"),
        ({"norm": {"kind": "batch"}}, "norm.kind"),
        ({"block": {"ffn_in": "x"}}, "block.ffn_in: Extra inputs"),
        ({"modules": {"layers": "model layers"}}, "modules.layers"),
        ({"transformers": "5"}, "transformers: Value error, Invalid specifier: '5'"),
        ({"like": "lama"}, "is like 'lama', which is not one of the known families"),
        ({"model_type": None}, "model_type"),
        ([], "holds a list, not an object"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ({"model_type": "a b"}, "model_type"),
        (None, "No such file or directory"),
    ],
)
def test_a_wrong_file_is_refused_by_file_and_entry(facts, said, tmp_path):
    path = tmp_path / "family.json"
    if isinstance(facts, dict):
        facts = {"model_type": "x", "like": "llama", "transformers": ">=5.0", **facts}
    if facts is not None:
        path.write_text(facts if isinstance(facts, str) else json.dumps(facts))
    with pytest.raises(ConfigurationError) as caught:
        read_family(path)
    assert str(path) in str(caught.value) and said in str(caught.value)


@pytest.mark.usefixtures("strangers")
def test_a_mixture_of_the_user(tmp_path):
    facts = {"model_type": "olmoe", "like": "mixtral", "transformers": ">=5.0"}
    sizes = {**SIZES, "num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2}
    config = CONFIG_MAPPING["olmoe"](vocab_size=64, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    check_family(model, family_for(config, written(tmp_path, facts)))


def test_a_file_of_another_family_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="describes 'ernie4_5', the model is of type 'persimmon'"):
        family_for(stranger(PERSIMMON).config, written(tmp_path, ERNIE))


def test_wrong_facts_are_refused_before_weights_are_read(tmp_path):
    stranger(PERSIMMON).config.save_pretrained(tmp_path)
    byte_level_tokenizer(600).save_pretrained(tmp_path)
    for changes in ({"modules": {"layers": "model.blocks"}}, {"block": {"ffn_out": "mlp"}}, {"block": {}}):
        file = written(tmp_path, {**PERSIMMON, **changes})
        with pytest.raises(FlabError, match="does not match the description of its family"):
            inspect_model(str(tmp_path), family=file)


def test_each_kind_of_tensor_that_nothing_describes_is_named_once(tmp_path):
    model = stranger(PERSIMMON)
    with pytest.raises(FlabError, match="nothing says what the axes of") as caught:
        check_family(model, family_for(model.config, written(tmp_path, {**PERSIMMON, "tensors": {}})))
    for name in ("query_key_value.weight", "query_key_value.bias", "dense_h_to_4h.weight", "dense_4h_to_h.bias"):
        assert str(caught.value).count(name) == 1, name
    assert "model.layers.N.mlp.dense_h_to_4h.weight" in str(caught.value)


def test_an_unknown_family_is_refused_with_a_file_to_start_from(tmp_path):
    config = CONFIG_MAPPING["opt"]()
    config.model_type = "stranger"
    with pytest.raises(FlabError, match='starts from {"model_type": "stranger", "like": "llama"'):
        family_for(config)


def test_the_documentation_names_them_all():
    root = Path(__file__).parents[2]
    named = re.search(r"- Families: ([^;]+);", root.joinpath("docs/limits.md").read_text())[1]
    assert re.findall(r"\w+", named) == known_families()
    assert f"- {len(known_families())} families" in root.joinpath("README.md").read_text()


def test_every_known_file_says_only_what_differs():
    """A fact that a family shares with the one it is like is not written again."""
    from optimum_flab.families.files import KNOWN

    for path in KNOWN.glob("*.json"):
        facts = json.loads(path.read_text())
        if "like" not in facts:
            continue
        other = json.loads(read_family(KNOWN / f"{facts['like']}.json").model_dump_json())
        for name in ("modules", "tensors", "sizes", "block", "logits", "norm", "experts"):
            again = {
                key for key, value in facts.get(name, {}).items() if (other[name] or {}).get(key, object()) == value
            }
            assert not again, (path.name, name, again)
        assert not {name for name in ("per_layer", "layer_counts") if facts.get(name) == other[name]}, path.name
