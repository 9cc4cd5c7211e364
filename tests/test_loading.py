"""Loading dense models from real files, and what is refused before weights are read."""

from __future__ import annotations

import json
import math
import shutil

import gguf
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertConfig, T5Config

from optimum_flab.checkpoints.computation import computation_device, computation_devices
from optimum_flab.checkpoints.finding import find_model
from optimum_flab.checkpoints.hashes import dense_hash, weights_hash
from optimum_flab.checkpoints.loading import LoadedModel, dense_from_memory, load_dense
from optimum_flab.checkpoints.model_config import check_config, read_model_config
from optimum_flab.export import export_gguf
from optimum_flab.families import family_for
from optimum_flab.records.base_card import base_card_of
from optimum_flab.records.report import BaseCard
from optimum_flab.running.casting import multiplies_bfloat16
from optimum_flab.settings.export import ExportSettings
from optimum_flab.tensors.gguf_files import near_equal_copies
from optimum_flab.tensors.lazy import WrittenTensors
from optimum_flab.utils.errors import ConfigurationError, FlabError

from .conftest import byte_level_tokenizer, saved, thorough_but, tiny_model
from .gguf_writer import F32, Q5, Q8, write_gguf


VOCABULARY = 600


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer(VOCABULARY)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("models") / "tiny-qwen2"
    tiny_model("qwen2", VOCABULARY).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)  # of the class that the family has
    (folder / "LICENSE.txt").write_text("licence")
    (folder / "Notice").write_text("notice")
    return folder


@pytest.fixture
def broken(checkpoint, tmp_path):
    """A copy to damage, and a way to change fields of its config."""
    folder = tmp_path / "broken"
    shutil.copytree(checkpoint, folder)

    def change(**fields):
        config = json.loads((folder / "config.json").read_text()) | fields
        (folder / "config.json").write_text(
            json.dumps({key: value for key, value in config.items() if value is not None})
        )

    return folder, change


def test_a_licence_that_cannot_be_copied_is_refused_before_any_work(checkpoint, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: path.name != "Notice")  # root may read whatever its mode is
    with pytest.raises(FlabError, match=r"Notice' cannot be read, but must accompany the pruned model"):
        load_dense(checkpoint, device="cpu")


def test_folder_loads_into_float32_without_loss(checkpoint):
    dense = load_dense(checkpoint, device="cpu")
    stored = load_file(checkpoint / "model.safetensors")
    state = dense.model.state_dict()
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in stored.items())
    assert {parameter.dtype for parameter in dense.model.parameters()} == {torch.float32}
    assert not dense.model.training and not any(parameter.requires_grad for parameter in dense.model.parameters())
    assert dense.model.lm_head.weight is dense.model.model.embed_tokens.weight
    assert dense.storage_dtype == torch.bfloat16
    assert (dense.name, dense.folder, dense.revision, dense.notes) == (str(checkpoint), checkpoint, None, [])
    assert [file.name for file in dense.license_files] == ["LICENSE.txt", "Notice"]
    assert dense.tokenizer.is_fast
    assert not dense.model.use_kernels  # by default, transformers fetches programs from the Hub for GPUs


def test_dtype_of_the_computation_and_sharded_storage(checkpoint, tmp_path, tokenizer):
    folder = tmp_path / "sharded"
    tiny_model("llama", VOCABULARY).to(torch.float16).save_pretrained(folder, max_shard_size="50KB")
    tokenizer.save_pretrained(folder)
    assert (folder / "model.safetensors.index.json").is_file()
    dense = load_dense(str(folder), dtype="bfloat16", revision="main")
    assert {parameter.dtype for parameter in dense.model.parameters()} == {torch.bfloat16}
    assert dense.notes[0] == "revision 'main' means nothing for local files and was ignored"
    # what the computation cannot hold is not promised
    assert dense.storage_dtype == torch.bfloat16 and "stored in float16 and were rounded" in dense.notes[1]
    same = load_dense(str(folder))
    assert same.storage_dtype == torch.float16 and same.notes == []


def test_device_and_dtype_are_checked_first(tmp_path):
    with pytest.raises(ConfigurationError, match="dtype 'int8' is not one of float32"):
        load_dense(tmp_path / "nothing", dtype="int8")
    with pytest.raises(ConfigurationError, match="device 'abacus' cannot be used"):
        load_dense(tmp_path / "nothing", device="abacus")
    with pytest.raises(ConfigurationError, match="device 'meta' cannot be used"):
        computation_device("meta")
    if not torch.backends.mps.is_available():
        with pytest.raises(ConfigurationError, match="'MPS' backend\\); try 'cpu'"):
            computation_device("mps")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigurationError, match="device 'cuda' cannot be used"):
            computation_device("cuda")
    assert computation_device("auto") == computation_device(None)
    assert computation_devices("cpu") == [computation_device("cpu", exact=True)] == [torch.device("cpu")]


@pytest.mark.parametrize("multiplies", [True, False])
def test_other_accelerators_are_tried_with_bfloat16(multiplies, monkeypatch):
    """They are not asked: torch has no question for all of them."""
    ones = torch.ones

    def made(*shape, device, dtype):
        if not multiplies:
            raise TypeError("BFloat16 is not supported on MPS")
        return ones(*shape, dtype=dtype)

    monkeypatch.setattr(torch, "ones", made)
    assert multiplies_bfloat16(torch.device("mps")) == multiplies


# --- refusals; every folder here still has its weights, so only the named fault can be what is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (BertConfig(architectures=["BertForMaskedLM"]).to_dict(), r"not a causal language model \(BertForMaskedLM\)"),
        (T5Config(architectures=["T5ForConditionalGeneration"]).to_dict(), "not a causal language model .T5For"),
        ({"architectures": ["Qwen2ForSequenceClassification"]}, "not a causal language model .Qwen2ForSeq"),
        ({"architectures": ["Qwen2Model"]}, "not a causal language model .Qwen2Model"),
        (
            {"model_type": "opt", "architectures": ["OPTForCausalLM"]},
            "'opt' is not supported; supported .*llama.*qwen2",
        ),
        ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}, "'gemma3' is not supported"),
        ({"model_type": "inventlm", "architectures": ["InventForCausalLM"]}, "'inventlm' is not supported"),
        (
            {
                "model_type": "inventlm",
                "architectures": ["InventForCausalLM"],
                "auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"},
            },
            "custom code .*`trust_remote_code`",
        ),
        ({"model_type": None}, "names no model_type"),
        ({"vocab_size": 599}, "tokenizer of .* has 600 tokens but the model embeds only 599"),
        ({"layer_types": ["full_attention"]}, "configuration of .* cannot be read"),
        ({"intermediate_size": 32}, "other shapes"),
        ({"rope_theta": math.inf}, r"config.json' is damaged \(rope_theta is inf, which is no number\); download it"),
        ({"rope_parameters": {"rope_theta": {"__float__": "NaN"}}}, "rope_theta is nan, which is no number"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": -5.0}}, "has rope_theta -5.0; correct it"),
        ({"rms_norm_eps": 1e308}, r"has rms_norm_eps 1e\+308; correct it"),
        ({"max_position_embeddings": -1}, "has max_position_embeddings -1; correct it"),
        ({"num_hidden_layers": 5, "layer_types": ["full_attention"] * 5}, "lack 12 tensors"),
    ],
    ids=str,
)
def test_configurations_that_are_refused(broken, fields, message):
    folder, change = broken
    change(**fields)
    with pytest.raises(FlabError, match=message):
        load_dense(folder)


def test_a_name_that_stands_twice_is_refused(broken):
    folder, change = broken
    change()
    config = folder / "config.json"
    config.write_text(config.read_text().replace("{", '{"hidden_size": 32,', 1))
    with pytest.raises(FlabError, match=r"config.json' is damaged \(it has 'hidden_size' twice\); download it again"):
        load_dense(folder)


def test_refused_before_weights_are_read(broken):
    folder, change = broken
    (folder / "model.safetensors").unlink()
    change(vocab_size=10)
    with pytest.raises(FlabError, match="embeds only 10"):
        load_dense(folder)
    change(vocab_size=VOCABULARY)
    with pytest.raises(FlabError, match=r"weight files are missing in .*: model.safetensors; download them"):
        load_dense(folder)


def test_custom_code_that_is_trusted_is_still_of_an_unknown_family(broken):
    folder, change = broken
    change(
        model_type="inventlm",
        architectures=["InventForCausalLM"],
        auto_map={"AutoConfig": "code.InventConfig", "AutoModelForCausalLM": "code.InventForCausalLM"},
    )
    (folder / "code.py").write_text(
        "from transformers import PreTrainedConfig\n"
        "class InventConfig(PreTrainedConfig):\n    model_type = 'inventlm'\n"
    )
    with pytest.raises(FlabError, match="'inventlm' is not supported"):
        load_dense(folder, trust_remote_code=True)


def test_marks_of_other_quantisers(broken):
    folder, _ = broken
    (folder / "hf_quant_config.json").write_text("{}")
    with pytest.raises(FlabError, match=r"quantised \(hf_quant_config\.json\)"):
        load_dense(folder)


def test_tokens_that_share_an_id(broken):
    folder, _ = broken
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {"ef": content["model"]["vocab"]["a"]}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(FlabError, match="gives '(a|ef)' and '(a|ef)' the same id, "):
        load_dense(folder)


def test_an_impossible_id_is_refused_before_tokenizers_counts_up_to_it(broken):
    folder, _ = broken
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {"ef": 2**31}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(FlabError, match="gives 'ef' the id 2147483648, which no vocabulary has"):
        load_dense(folder)


def test_a_full_disk_for_the_copy_of_a_tokenizer_is_told(broken, monkeypatch):
    folder, _ = broken

    def full(*_: object, **options: object) -> None:
        raise Exception("File too large (os error 27)")  # as tokenizers says it

    monkeypatch.setattr("optimum_flab.vocabulary.files.save_tokenizer", full)
    with pytest.raises(FlabError, match="the folder of temporary files cannot be written"):
        load_dense(folder)


def test_missing_tokenizer_is_not_made_up(broken):
    folder, _ = broken
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FlabError, match="has no tokenizer files"):
        load_dense(folder)


def test_slow_tokenizer(tmp_path):
    folder = tmp_path
    tiny_model("llama", VOCABULARY).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CTRLTokenizer"}))
    (folder / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "<unk>": 2}))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    with pytest.raises(FlabError, match=r"\(CTRLTokenizer\) is slow only"):
        load_dense(folder)


@pytest.mark.parametrize(
    "name", ["./no/such/folder", "/no/such/folder", "a/b/c", "model.gguf", "org/model.gguf", "what is this"]
)
def test_names_that_are_neither_path_nor_hub_id(name):
    with pytest.raises(FlabError, match="does not exist; name a local folder, a GGUF file, a Hub id or flab-demo"):
        load_dense(name)


def test_folders_and_files_that_are_no_checkpoint(tmp_path):
    with pytest.raises(FlabError, match="has no config.json and no GGUF file"):
        load_dense(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(FlabError, match=r"(?s)is an adapter; .*merge_and_unload\(\).save_pretrained\('merged'\)"):
        load_dense(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(FlabError, match="is a file but not a .gguf"):
        load_dense(tmp_path / "weights.bin")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(FlabError, match="has 2 GGUF files; name one of them: a.gguf, b.gguf"):
        load_dense(tmp_path)
    with pytest.raises(FlabError, match="is not a GGUF file"):
        load_dense(tmp_path / "a.gguf")
    (tmp_path / "a-00001-of-00002.gguf").write_bytes(b"GGUF")
    with pytest.raises(FlabError, match="one part of several"):
        load_dense(tmp_path / "a-00001-of-00002.gguf")
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(FlabError, match="GGUF file .* cannot be read"):
        load_dense(tmp_path / "a.gguf")


def test_hub_names_come_from_the_cache_or_say_that_they_cannot(checkpoint, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--someone--tiny"
    shutil.copytree(checkpoint, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    dense = load_dense("someone/tiny")
    assert (dense.name, dense.revision, dense.folder.name) == ("someone/tiny", commit, commit)
    assert [file.name for file in dense.license_files] == ["LICENSE.txt", "Notice"]
    assert dense.storage_dtype == torch.bfloat16
    left = load_dense("someone/tiny", in_memory=False)
    assert left.stored is not None and dense_hash(left) == dense_hash(dense)
    with pytest.raises(FlabError, match="'someone/other' is neither a local folder nor in the .*name a local folder"):
        load_dense("someone/other")
    with pytest.raises(FlabError, match="'someone/tiny' at revision 'v2' is .*name a local folder"):
        load_dense("someone/tiny", revision="v2")


# --- GGUF


@pytest.fixture(scope="module")
def dense_qwen2():
    return tiny_model("qwen2", VOCABULARY)


def test_gguf_of_a_tied_model_loads_and_saves_as_an_ordinary_one(tmp_path, tokenizer, dense_qwen2):
    matrix = dense_qwen2.model.embed_tokens.weight.numpy()
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "LICENSE").write_text("licence")
    write_gguf(tmp_path / "gguf" / "tiny.gguf", dense_qwen2, tokenizer, (matrix, F32))
    for name in (tmp_path / "gguf", tmp_path / "gguf" / "tiny.gguf"):
        dense = load_dense(name)
        assert weights_hash(dense.model) == weights_hash(dense_qwen2)
    assert dense.storage_dtype == torch.bfloat16 and len(dense.license_files) == 1
    words, size = dense.notes
    assert "loads the tokenizer of a qwen2 model as Qwen2Tokenizer" in words and "the GGUF file takes" in size
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(dense.model(ids).logits, dense_qwen2(ids).logits)
    text = "def add_alpha(a, b): return 'é🙂'"
    assert dense.tokenizer(text).input_ids == tokenizer(text).input_ids
    dense.model.save_pretrained(tmp_path / "saved")
    dense.tokenizer.save_pretrained(tmp_path / "saved")
    again = load_dense(tmp_path / "saved")
    assert weights_hash(again.model) == weights_hash(dense_qwen2) and again.storage_dtype == torch.float32
    assert not hasattr(dense.model.config, "quantization_config")


@pytest.mark.parametrize(
    ("card", "fields", "expected"),
    [
        (None, {"general.license": "Gemma"}, {"license": "gemma"}),
        (
            "---\nlanguage: en\n---\n",
            {
                "general.license": "other",
                "general.license.name": "ours",
                "general.license.link": "https://a.example/l",
            },
            {
                "license": "other",
                "license_name": "ours",
                "license_link": "https://a.example/l",
                "language": ("en",),
            },
        ),
        ("---\nlicense: mit\n---\n", {"general.license": "gemma"}, {"license": "mit"}),
        ("# Tiny\n", {"general.license": "see the web page"}, {}),
        (None, {}, None),
    ],
)
def test_the_licence_in_a_gguf_file_counts_where_the_card_states_none(
    tmp_path, tokenizer, dense_qwen2, card, fields, expected
):
    matrix = dense_qwen2.model.embed_tokens.weight.numpy()
    write_gguf(tmp_path / "tiny.gguf", dense_qwen2, tokenizer, (matrix, F32), fields=fields)
    if card is not None:
        (tmp_path / "README.md").write_text(card, encoding="utf-8")
    stated = base_card_of(tmp_path, tmp_path / "tiny.gguf")
    assert stated == (None if expected is None else BaseCard(**expected))


@pytest.mark.parametrize(("embedding_type", "output_type", "finer"), thorough_but(1, [(Q5, Q8, Q8), (Q8, Q5, Q8)]))
def test_near_equal_copies_are_tied_again(tmp_path, tokenizer, dense_qwen2, embedding_type, output_type, finer):
    matrix = dense_qwen2.model.embed_tokens.weight.numpy()
    path = tmp_path / "tiny.gguf"
    write_gguf(path, dense_qwen2, tokenizer, (matrix, embedding_type), (matrix, output_type))
    assert read_model_config(find_model(path)).tie_word_embeddings is False
    dense = load_dense(path)
    expected = torch.from_numpy(gguf.dequantize(gguf.quantize(matrix, finer), finer))
    assert torch.equal(dense.model.model.embed_tokens.weight, expected)
    assert dense.model.lm_head.weight is dense.model.model.embed_tokens.weight
    assert dense.model.config.tie_word_embeddings is True
    assert any("tied again, keeping the Q8_0 one" in note for note in dense.notes)
    dense.model.save_pretrained(tmp_path / "saved")
    assert "lm_head.weight" not in load_file(tmp_path / "saved" / "model.safetensors")
    dense.tokenizer.save_pretrained(tmp_path / "saved")
    assert weights_hash(load_dense(tmp_path / "saved").model) == weights_hash(dense.model)


def test_head_of_its_own_stays(tmp_path, tokenizer, dense_qwen2):
    matrix = dense_qwen2.model.embed_tokens.weight.numpy()
    head = matrix + np.random.default_rng(0).normal(scale=0.5 * matrix.std(), size=matrix.shape).astype(np.float32)
    path = tmp_path / "tiny.gguf"
    write_gguf(path, dense_qwen2, tokenizer, (matrix, Q8), (head, Q8))
    finer, difference = near_equal_copies(path)
    assert finer is None and 0.3 < difference < 0.6
    dense = load_dense(path)
    assert not any("tied" in note for note in dense.notes) and dense.model.config.tie_word_embeddings is False
    torch.testing.assert_close(dense.model.lm_head.weight, torch.from_numpy(head), atol=0.02, rtol=0.02)
    torch.testing.assert_close(dense.model.model.embed_tokens.weight, torch.from_numpy(matrix), atol=0.02, rtol=0.02)


# --- in memory, and the hash


def test_dense_from_memory(tokenizer):
    model = tiny_model("llama", VOCABULARY).to(torch.bfloat16).train().requires_grad_(True)
    dense = dense_from_memory(model, tokenizer)
    assert dense.model is model and not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert (dense.name, dense.storage_dtype, dense.folder) == ("LlamaForCausalLM", torch.bfloat16, None)
    with pytest.raises(FlabError, match="has 600 tokens but the model embeds only 64"):
        dense_from_memory(tiny_model("llama", 64), tokenizer)
    with pytest.raises(FlabError, match=r"not a causal language model \(LlamaModel\)"):
        dense_from_memory(model.model, tokenizer)


def test_dense_from_memory_remembers_where_the_model_came_from(checkpoint):
    loaded = load_dense(checkpoint)
    dense = dense_from_memory(loaded.model, loaded.tokenizer)
    assert (dense.folder, dense.license_files) == (checkpoint, loaded.license_files)


def test_check_config_accepts_what_is_supported(family):
    model = tiny_model(family)
    check_config(model.config.to_dict() | {"architectures": [type(model).__name__]}, family)


def test_weights_hash_is_of_the_weights(family, tmp_path):
    model = tiny_model(family)
    reference = weights_hash(model)
    assert weights_hash(WrittenTensors(model)) == reference == weights_hash(tiny_model(family))
    model.save_pretrained(tmp_path)
    assert weights_hash(load_file(tmp_path / "model.safetensors")) == reference
    for name, tensor in model.state_dict().items():
        tensor.view(-1)[-1] += 1
        assert weights_hash(model) != reference, name
        tensor.view(-1)[-1] -= 1
    stored = tiny_model(family).to(torch.bfloat16)
    assert weights_hash(stored) != reference
    # computing in another type does not change the hash as stored
    dense = LoadedModel(stored.float(), None, family_for(stored.config), "tiny", storage_dtype=torch.bfloat16)
    assert dense_hash(dense) == weights_hash(tiny_model(family).to(torch.bfloat16))


def test_weights_hash_sees_names_dtypes_and_shapes():
    ones = torch.ones(4)
    hashes = {
        weights_hash(state)
        for state in (
            {"a": ones},
            {"b": ones},
            {"a": ones.view(2, 2)},
            {"a": ones.view(torch.int32)},
            {"a": ones, "b": ones.clone()},
            {"a": ones.clone(), "b": torch.tensor(1.0)},
            {},
        )
    }
    assert len(hashes) == 7
    assert weights_hash({"a": torch.arange(6.0).view(2, 3).t()}) == weights_hash(
        {"a": torch.tensor([[0.0, 3], [1, 4], [2, 5]])}
    )
    with pytest.raises(FlabError, match="'a' is not in memory"):
        weights_hash({"a": torch.empty(2, device="meta")})


def test_a_model_that_sees_what_comes_after_is_refused(tmp_path):
    model = tiny_model("gemma3_text", 600, use_bidirectional_attention=True)
    with pytest.raises(FlabError, match="so it does not write text"):
        dense_from_memory(model, byte_level_tokenizer(600))
    with pytest.raises(FlabError, match="so it does not write text"):
        load_dense(saved(model, tmp_path))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_gguf_file_beside_a_tokenizer_has_its_special_tokens(family, tmp_path):
    tokenizer = byte_level_tokenizer(600)
    tiny_model(family, 600).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    export_gguf(load_dense(tmp_path), tmp_path / "model.gguf", ExportSettings(type="f16"))
    loaded = load_dense(tmp_path / "model.gguf").tokenizer
    assert tokenizer.eos_token_id is not None
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
