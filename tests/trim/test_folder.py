"""Folders with safetensors files with fewer rows: models of many classes compute the same over the tokens that stay,
files of many quantisations keep every other byte, and what cannot be trimmed is refused before anything is written."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoConfig, AutoTokenizer, GenerationConfig

from optimum_flab import FlabError, PruningPlan, TrimSettings, families
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.tensors.stored import safetensors_header, stored_entries, tensor_hashes
from optimum_flab.trim.run import trim

from ..conftest import TEXTS, byte_level_tokenizer, thorough_but
from ..vocabulary.llama_files import llama
from ..vocabulary.tiny_tokenizers import gemma, unigram_with_bytes


ROWS, PER_LAYER = 640, 504
NAMES = ["<image>", "<video>", "<vision>", "</vision>", "<audio>"]


def tokenizer_with_names(size=500):
    """The tokens that configurations name are behind all others, so that their ids change."""
    made = byte_level_tokenizer(size)
    specials = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<filler>", "extra_special_tokens": NAMES}
    made.add_special_tokens(specials)
    return made


TOKENIZER = tokenizer_with_names()
IMAGE, VIDEO, BEGIN, END, AUDIO = TOKENIZER.convert_tokens_to_ids(NAMES)
SPECIAL = {name: getattr(TOKENIZER, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
BASE = {"vocab_size": ROWS, "hidden_size": 32, "num_hidden_layers": 2, **SPECIAL}
TEXT = {
    **{**BASE, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
    "max_position_embeddings": 256,
}
GPT = {"vocab_size": ROWS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, **SPECIAL}
VISION = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4},
    **{"image_size": 16, "patch_size": 8},
}
QWEN_VISION = {
    **{"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32},
    **{"patch_size": 8, "num_position_embeddings": 16},
}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2], "partial_rotary_factor": 1.0}
QWEN_IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": BEGIN}
SSM = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
LINEAR = {
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "layer_types": ["linear_attention", "full_attention"],
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8, "num_kv_shared_layers": 0}
LAYER_INPUT = {**SLIDING, "hidden_size_per_layer_input": 8}


def text(model_type, **fields):
    return {"model_type": model_type, **TEXT, **fields}


def towers(model_type, vision_type, **fields):
    """The configuration of a text model beside that of a model of images."""
    return {"text_config": text(model_type), "vision_config": {"model_type": vision_type, **VISION}, **fields}


# by model type: the class, and its configuration; no family of the package knows any of them
CLASSES = {
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        {
            **towers("gemma3_text", "siglip_vision_model", mm_tokens_per_image=4, image_token_index=IMAGE, **SPECIAL),
            **{"boi_token_index": BEGIN, "eoi_token_index": END},
        },
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VLForConditionalGeneration",
        {
            "text_config": text("qwen2_5_vl_text", rope_parameters=ROPE),
            "vision_config": {**QWEN_VISION, "fullatt_block_indexes": [0], "window_size": 16},
            **{**QWEN_IDS, "vision_end_token_id": END, **SPECIAL},
        },
    ),
    "gemma3n_text": (
        "Gemma3nForCausalLM",
        {
            **{**TEXT, **LAYER_INPUT, "vocab_size_per_layer_input": PER_LAYER, "laurel_rank": 4},
            **{"altup_num_inputs": 2, "activation_sparsity_pattern": [0.0, 0.0]},
        },
    ),
    # a table that says which experts a token goes to
    "deepseek_v4": (
        "DeepseekV4ForCausalLM",
        {
            **{**BASE, "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "hc_mult": 2},
            **{"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "partial_rotary_factor": 0.5},
            **{"q_lora_rank": 16, "o_lora_rank": 8, "o_groups": 2, "mlp_layer_types": ["hash_moe", "moe"]},
            **{"layer_types": ["sliding_attention"] * 2, "sliding_window": 8, "max_position_embeddings": 256},
        },
    ),
    # rows that are no output, of which the first is that of a token
    "mllama": (
        "MllamaForConditionalGeneration",
        {
            "text_config": text(
                "mllama_text_model", vocab_size=AUDIO, cross_attention_layers=[1], rope_parameters=ROPE
            ),
            "vision_config": {
                **{**VISION, "num_global_layers": 1, "attention_heads": 4, "vision_output_dim": 64},
                **{"intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]], "max_num_tiles": 1},
            },
            "image_token_index": AUDIO,
        },
    ),
    "gptj": ("GPTJForCausalLM", {**GPT, "rotary_dim": 4}),
    "mamba2": ("Mamba2ForCausalLM", {**BASE, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1}),
    "granitemoehybrid": (
        "GraniteMoeHybridForCausalLM",
        {**TEXT, **LOCAL, **SSM, "shared_intermediate_size": 48, "layer_types": ["mamba", "attention"]},
    ),
    "rwkv": ("RwkvForCausalLM", {**BASE, "intermediate_size": 48, "context_length": 64}),
    "phimoe": ("PhimoeForCausalLM", {**TEXT, **LOCAL, "lm_head_bias": True}),
    "llava": ("LlavaForConditionalGeneration", towers("llama", "clip_vision_model", image_token_index=IMAGE)),
    "lfm2": ("Lfm2ForCausalLM", {**TEXT, "layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    "qwen3_5": (
        "Qwen3_5ForConditionalGeneration",
        {
            "text_config": text("qwen3_5_text", **LINEAR, rope_parameters=ROPE),
            **{"vision_config": QWEN_VISION, **QWEN_IDS, "vision_end_token_id": END},
        },
    ),
    "bert": ("BertForMaskedLM", {**VISION, "vocab_size": ROWS, "pad_token_id": SPECIAL["pad_token_id"]}),
    # --- the rest only if all tests are asked for
    "ernie4_5": ("Ernie4_5ForCausalLM", TEXT),
    "gemma4": (
        "Gemma4ForConditionalGeneration",
        {
            "text_config": text("gemma4_text", **LAYER_INPUT, vocab_size_per_layer_input=ROWS, global_head_dim=8),
            "vision_config": {**VISION, "num_key_value_heads": 4, "head_dim": 8},
            **{"audio_config": None, "image_token_id": IMAGE, "video_token_id": VIDEO, "audio_token_id": AUDIO},
            **{"boi_token_id": BEGIN, "eoi_token_id": END, "boa_token_id": BEGIN, "eoa_token_index": END},
        },
    ),
    "olmoe": ("OlmoeForCausalLM", {**TEXT, **ROUTED}),
    "paligemma": (
        "PaliGemmaForConditionalGeneration",
        {
            **{"text_config": text("gemma"), "image_token_index": IMAGE, "projection_dim": 32, **SPECIAL},
            "vision_config": {
                **{"model_type": "siglip_vision_model", **VISION, "projection_dim": 32, "vision_use_head": False}
            },
        },
    ),
    "phi4_multimodal": (
        "Phi4MultimodalForCausalLM",
        {
            **{**TEXT, "eos_token_id": [SPECIAL["eos_token_id"]]},
            "vision_config": {**VISION, "crop_size": 16, "image_token_id": IMAGE, "feature_layer": -1},
            "audio_config": {
                **{"hidden_size": 32, "intermediate_size": 48, "num_blocks": 1, "num_attention_heads": 4},
                **{"ext_pw_out_channel": 32, "nemo_conv_channels": 8, "input_size": 16, "audio_token_id": AUDIO},
            },
        },
    ),
}
WITH_IMAGES = ("gemma3", "llava", "paligemma")  # that are given some here
TABLES = {
    "gptj": {"transformer.wte.weight", "lm_head.weight", "lm_head.bias"},
    "gemma3n_text": {"model.embed_tokens.weight", "model.embed_tokens_per_layer.weight"},
    "deepseek_v4": {"model.embed_tokens.weight", "head.weight", "model.layers.0.ffn.gate.tid2eid"},
    "mamba2": {"backbone.embeddings.weight", "lm_head.weight"},
    "rwkv": {"rwkv.embeddings.weight", "head.weight"},
    "bert": {"bert.embeddings.word_embeddings.weight", "cls.predictions.bias"},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    file = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": one}) + "\n" for one in TEXTS))
    return f"{file}[text]"


@pytest.fixture(scope="module")
def few(corpus):
    """Settings by which about a third of the tokens go."""
    data = {"held_out_tokens": 64, "calibration_tokens": 256, "validation_tokens": 64, "sequence_length": 64}
    return TrimSettings(
        data={**data, "corpus": [corpus], "mix": {"own": 1.0}}, vocabulary={"keep_merges": 0, "coverage": 1.0}
    )


def model_of(name):
    """A tiny model of a class, with random weights that all matter."""
    kind, fields = CLASSES[name]
    if not hasattr(transformers, kind):
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    torch.manual_seed(0)
    model = getattr(transformers, kind)(CONFIG_MAPPING[name](**fields)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0.0 if parameter.dim() > 1 else 0.5, 0.3)
    for buffer, tensor in model.named_buffers():
        if buffer.endswith("tid2eid"):
            tensor.random_(0, 4)
    return model


def class_folder(name, folder, **options):
    model = model_of(name)
    model.generation_config = GenerationConfig(**{**SPECIAL, "eos_token_id": [SPECIAL["eos_token_id"], END]})
    model.save_pretrained(folder, **options)
    TOKENIZER.save_pretrained(folder)
    return folder


def weight_files(folder):
    return sorted(folder.glob("*.safetensors"))


def stored(folder):
    return {name: one for path in weight_files(folder) for name, one in stored_entries(path, safetensors_header(path))}


def rows_of(entry):
    """The bytes of each row of a table."""
    with entry.path.open("rb") as file:
        file.seek(entry.start)
        content = file.read(entry.end - entry.start)
    width = len(content) // entry.shape[0]
    return [content[place : place + width] for place in range(0, len(content), width)]


def check_files(source, out, tables=None):
    """Only tables changed, to the rows that stay; returns the ids of these."""
    report, kept = Checkpoint(out).trim, PruningPlan.load(out).kept_tokens
    assert len(kept) == report.tokens_after < report.tokens_before
    before, after = tensor_hashes(weight_files(source)), tensor_hashes(weight_files(out))
    assert before.keys() == after.keys()
    assert (
        {name for name in before if before[name] != after[name]} == set(report.tables) == (tables or {*report.tables})
    )
    entries, new = stored(source), stored(out)
    for name in report.tables:
        rows = rows_of(entries[name])
        assert rows_of(new[name]) == [rows[index] for index in kept if index < len(rows)]
        assert new[name].dtype == entries[name].dtype and new[name].shape[1:] == entries[name].shape[1:]
    assert [path.name for path in weight_files(out)] == [path.name for path in weight_files(source)]
    assert report.bytes_after == sum(path.stat().st_size for path in weight_files(out)) < report.bytes_before
    return kept


def ids_in(values, path=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ids_in(value, f"{path}{name}.")
        elif name.endswith(("_token_id", "_token_index", "suppress_tokens")) and value is not None:
            yield f"{path}{name}", value if isinstance(value, list) else [value]


def check_configurations(source, out):
    """Ids name the tokens that they named, and sizes are the new ones."""
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in (source, out))
    for file in filter(lambda one: (source / one).is_file(), ("config.json", "generation_config.json")):
        before, after = (json.loads((folder / file).read_text()) for folder in (source, out))
        places = dict(ids_in(after))
        for place, ids in ids_in(before):
            assert new.convert_ids_to_tokens(places[place]) == old.convert_ids_to_tokens(ids), place
        sizes = {name: before.get(name) for name in before if name.startswith("vocab_size")}
        assert all(after[name] == len(new) for name in sizes if sizes[name] == ROWS)


def loaded(name, folder):
    kind = getattr(transformers, CLASSES[name][0])
    model, info = kind.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    return model.eval()


def check_outputs(name, source, out, kept, images=False):
    """The outputs for the tokens that stay are those of the dense model."""
    dense, new, stay = loaded(name, source), loaded(name, out), torch.tensor(kept)
    ids = torch.randint(0, 250, (2, 12), generator=torch.Generator().manual_seed(0))
    extra = {}
    if images:
        ids[:, 2:6] = kept.index(IMAGE)
        extra = {"pixel_values": torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))}
    with torch.no_grad():
        before, after = dense(input_ids=stay[ids], **extra).logits, new(input_ids=ids, **extra).logits
    assert after.shape[-1] == int((stay < before.shape[-1]).sum()) and after.std() > 0.05
    torch.testing.assert_close(after, before[..., stay[: after.shape[-1]]], rtol=0, atol=1e-5)
    return after


# --- classes


def test_no_family_of_the_package_knows_these_classes():
    known = {path.stem for path in (Path(families.__file__).parent / "known").glob("*.json")}
    assert known and not known & set(CLASSES)


@pytest.mark.parametrize("name", thorough_but(14, [*CLASSES]))
def test_a_model_of_any_class_computes_the_same_over_the_tokens_that_stay(name, few, tmp_path):
    shards = {"max_shard_size": "60KB"} if len(name) % 2 else {}
    source = class_folder(name, tmp_path / "dense", **shards)
    trim(source, tmp_path / "out", few)
    kept = check_files(source, tmp_path / "out", TABLES.get(name))
    check_configurations(source, tmp_path / "out")
    check_outputs(name, source, tmp_path / "out", kept)
    if name in WITH_IMAGES:
        check_outputs(name, source, tmp_path / "out", kept, images=True)


def test_tables_with_rows_for_the_first_tokens_alone_lose_the_same_ones(few, tmp_path):
    source = class_folder("gemma3n_text", tmp_path / "dense")
    trim(source, tmp_path / "out", few)
    kept, rows = PruningPlan.load(tmp_path / "out").kept_tokens, stored(tmp_path / "out")
    below = sum(index < PER_LAYER for index in kept)
    assert rows["model.embed_tokens_per_layer.weight"].shape[0] == below < len(kept)
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.vocab_size, config.vocab_size_per_layer_input) == (len(kept), below)


def test_matrices_of_the_same_shape_that_are_no_tables_stay(few, tmp_path):
    fields = {**CLASSES["ernie4_5"][1], "intermediate_size": ROWS, "tie_word_embeddings": False}
    transformers.Ernie4_5ForCausalLM(CONFIG_MAPPING["ernie4_5"](**fields)).save_pretrained(tmp_path / "dense")
    TOKENIZER.save_pretrained(tmp_path / "dense")
    assert stored(tmp_path / "dense")["model.layers.0.mlp.up_proj.weight"].shape == (ROWS, 32)
    trim(tmp_path / "dense", tmp_path / "out", few)
    check_files(tmp_path / "dense", tmp_path / "out", {EMBEDDING, HEAD})


def test_ids_of_what_is_no_text_stay_in_a_row(few, tmp_path, monkeypatch):
    from transformers.models.gemma3n import modeling_gemma3n

    class Eyes(torch.nn.Module):
        """In place of the tower of images, which needs another library."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

    class Towers:
        @staticmethod
        def from_config(config):
            return Eyes() if config.model_type == "gemma3n_vision" else transformers.AutoModel.from_config(config)

    monkeypatch.setattr(modeling_gemma3n, "AutoModel", Towers)
    first = len(TOKENIZER)
    fields = {**CLASSES["gemma3n_text"][1], "vocab_size": first + 16, "vocab_size_per_layer_input": first}
    audio = {"hidden_size": 32, "conf_num_hidden_layers": 1, "conf_num_attention_heads": 4, "input_feat_size": 16}
    torch.manual_seed(0)
    config = CONFIG_MAPPING["gemma3n"](
        text_config={"model_type": "gemma3n_text", **fields},
        vision_config={"hidden_size": 32, "vocab_offset": first, "vocab_size": 8},
        audio_config={**audio, "vocab_offset": first + 8, "vocab_size": 8},
        **{"image_token_id": first, "eoi_token_id": first + 1, "audio_token_id": first + 8, "eoa_token_id": first + 9},
        **{"boi_token_id": BEGIN, "boa_token_id": BEGIN},
    )
    model = transformers.Gemma3nForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    model.save_pretrained(tmp_path / "dense")
    TOKENIZER.save_pretrained(tmp_path / "dense")
    trim(tmp_path / "dense", tmp_path / "out", few)
    kept = check_files(tmp_path / "dense", tmp_path / "out")
    assert kept[-16:] == [*range(first, first + 16)]
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (after["vision_config"]["vocab_offset"], after["audio_config"]["vocab_offset"]) == (
        *(len(kept) - 16, len(kept) - 8),
    )
    assert (after["image_token_id"], after["eoa_token_id"]) == (len(kept) - 16, len(kept) - 7)
    new = transformers.Gemma3nForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    ids = torch.tensor([[5, 80, len(kept) - 14, 9, len(kept) - 3, 11]])
    with torch.no_grad():
        before, after = model(input_ids=torch.tensor(kept)[ids]).logits, new(input_ids=ids).logits
    torch.testing.assert_close(after, before[..., kept], rtol=0, atol=1e-5)


# --- configurations as others write them


def rewritten(source, change):
    file = source / "config.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(change(raw) or raw))
    return json.loads(file.read_text())


def test_a_configuration_without_parts_is_written_without_parts(few, tmp_path):
    def flat(raw):
        """As Qwen2.5-VL is on the Hub."""
        inner = raw.pop("text_config")
        rope = {name: inner["rope_parameters"][name] for name in ("rope_type", "mrope_section")}
        inner = {name: value for name, value in inner.items() if name not in ("model_type", "rope_parameters")}
        return {**inner, **raw, "rope_scaling": rope, "rope_theta": 1e4}

    source = class_folder("qwen2_5_vl", tmp_path / "dense")
    before = rewritten(source, flat)
    trim(source, tmp_path / "out", few)
    kept = check_files(source, tmp_path / "out")
    check_configurations(source, tmp_path / "out")
    check_outputs("qwen2_5_vl", source, tmp_path / "out", kept)
    assert json.loads((tmp_path / "out" / "config.json").read_text()).keys() == before.keys()


def test_ids_that_are_left_to_the_class_are_written_out(few, tmp_path):
    """A LLaVA takes 32000 for its image, which is a row without a token here."""
    fields = CLASSES["llava"][1]
    config = CONFIG_MAPPING["llava"](**{**fields, "text_config": text("llama", vocab_size=32064, hidden_size=8)})
    transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "dense")
    TOKENIZER.save_pretrained(tmp_path / "dense")
    rewritten(tmp_path / "dense", lambda raw: raw.pop("image_token_index") and None)
    trim(tmp_path / "dense", tmp_path / "out", few)
    kept = check_files(tmp_path / "dense", tmp_path / "out")
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert kept[-1] == 32000 and config.image_token_id == len(kept) - 1 == config.text_config.vocab_size - 1


def test_ids_of_other_parts_and_ids_that_mean_something_else(few, tmp_path):
    source = class_folder("llava", tmp_path / "dense")

    def change(raw):
        raw["vision_config"] |= {"image_token_id": AUDIO, "bos_token_id": BEGIN, "pad_token_id": 1}
        raw["video_token_index"] = -200
        raw["text_config"]["eos_token_id"] = [SPECIAL["eos_token_id"], BEGIN]

    rewritten(source, change)
    trim(source, tmp_path / "out", few)
    kept = check_files(source, tmp_path / "out")
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    assert after["vision_config"]["image_token_id"] == kept.index(AUDIO) != AUDIO
    # of a vocabulary of its own
    assert (after["vision_config"]["bos_token_id"], after["vision_config"]["pad_token_id"]) == (BEGIN, 1)
    assert after["video_token_index"] == -200
    assert after["text_config"]["eos_token_id"] == [kept.index(SPECIAL["eos_token_id"]), kept.index(BEGIN)]


def test_how_attention_would_be_computed_does_not_matter(few, tmp_path):
    source = class_folder("olmoe", tmp_path / "dense")
    rewritten(source, lambda raw: {**raw, "_attn_implementation": "flash_attention_2"})
    trim(source, tmp_path / "out", few)
    check_files(source, tmp_path / "out")


@pytest.mark.parametrize("maker", [gemma, unigram_with_bytes, llama])
def test_tokenizers_of_other_kinds(maker, few, tmp_path):
    tokenizer = maker()
    names = {name: getattr(tokenizer, name) for name in SPECIAL}
    torch.manual_seed(0)
    model = transformers.OlmoeForCausalLM(
        CONFIG_MAPPING["olmoe"](**{**CLASSES["olmoe"][1], "vocab_size": 700, **names})
    )
    model.save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    trim(tmp_path / "dense", tmp_path / "out", few)
    kept = check_files(tmp_path / "dense", tmp_path / "out")
    check_configurations(tmp_path / "dense", tmp_path / "out")
    check_outputs("olmoe", tmp_path / "dense", tmp_path / "out", kept)
    new = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert [kept[index] for index in new(TEXTS[0])["input_ids"]] == tokenizer(TEXTS[0])["input_ids"]


# --- quantisations


def some(shape, dtype):
    """Random bytes as a tensor."""
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.randint(0, 120, (size,), dtype=torch.uint8).view(dtype).reshape(shape)


def of_blocks(name, rows, columns):
    return {name: some((rows, columns), torch.float8_e4m3fn), f"{name}_scale_inv": some((1, 1), torch.float32)}


def of_gptq(name, rows, columns):
    stem = name.removesuffix("weight")
    return {
        f"{stem}qweight": some((columns // 8, rows), torch.int32),
        f"{stem}qzeros": some((1, rows // 8), torch.int32),
        f"{stem}scales": some((1, rows), torch.float16),
        f"{stem}g_idx": some((columns,), torch.int32),
    }


def of_awq(name, rows, columns):
    stem = name.removesuffix("weight")
    return {
        f"{stem}qweight": some((columns, rows // 8), torch.int32),
        f"{stem}qzeros": some((1, rows // 8), torch.int32),
        f"{stem}scales": some((1, rows), torch.float16),
    }


def of_bitsandbytes(name, rows, columns):
    return {
        name: some((rows * columns // 2, 1), torch.uint8),
        f"{name}.absmax": some((rows * columns // 64,), torch.uint8),
        f"{name}.nested_absmax": some((1,), torch.float32),
        f"{name}.nested_quant_map": some((256,), torch.float32),
        f"{name}.quant_map": some((16,), torch.float32),
        f"{name}.quant_state.bitsandbytes__nf4": some((90,), torch.uint8),
    }


def of_bytes(name, rows, columns):
    stem = name.removesuffix("weight")
    return {
        **{name: some((rows, columns), torch.int8), f"{stem}SCB": some((rows,), torch.float32)},
        f"{stem}weight_format": some((), torch.uint8),
    }


def of_rows(name, rows, columns):
    return {
        **{name: some((rows, columns), torch.float8_e4m3fn), f"{name}_scale": some((rows, 1), torch.bfloat16)},
        f"{name.removesuffix('weight')}input_scale": some((1,), torch.bfloat16),
    }


def of_words(name, rows, columns):
    return {
        f"{name}_packed": some((rows, columns // 8), torch.int32),
        f"{name}_scale": some((rows, columns // 16), torch.bfloat16),
        f"{name}_shape": torch.tensor([rows, columns]),
    }


def of_nibbles(name, rows, columns):
    return {
        **{name: some((rows, columns // 2), torch.uint8), f"{name}_scale_2": some((), torch.float32)},
        f"{name}_scale": some((rows, columns // 16), torch.float8_e4m3fn),
    }


def whole(name, rows, columns):
    return {name: some((rows, columns), torch.bfloat16)}


HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
# by name: how weights in layers are stored, and the head, what config.json says of it, and the tables
LAYOUTS = {
    "fp8": (of_blocks, whole, {"quant_method": "fp8", "weight_block_size": [128, 128]}, {HEAD}),
    "gptq": (of_gptq, whole, {"quant_method": "gptq", "bits": 4, "group_size": 128}, {HEAD}),
    "awq": (of_awq, whole, {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, {HEAD}),
    "bitsandbytes": (of_bitsandbytes, whole, {"quant_method": "bitsandbytes", "load_in_4bit": True}, {HEAD}),
    "bitsandbytes-int8": (
        *(of_bytes, of_bytes, {"quant_method": "bitsandbytes", "load_in_8bit": True}, {HEAD, "lm_head.SCB"}),
    ),
    "fp8-rows": (of_rows, of_rows, {"quant_method": "compressed-tensors"}, {HEAD, "lm_head.weight_scale"}),
    "packed": (of_words, whole, {"quant_method": "compressed-tensors", "format": "pack-quantized"}, {HEAD}),
    "nvfp4": (of_nibbles, whole, {"quant_method": "modelopt", "quant_algo": "NVFP4"}, {HEAD}),
    "bfloat16": (whole, whole, None, {HEAD}),
    "tied": (whole, lambda *_: {}, None, set()),
}


def layout_folder(folder, linear, head, quantisation, more=None, metadata=None):
    """A Qwen2 as a checkpoint of a quantisation stores it: the weights in its layers as one function makes them, its
    head as another one."""
    config = CONFIG_MAPPING["qwen2"](**TEXT, tie_word_embeddings=not head(HEAD, ROWS, 32))
    config.architectures = ["Qwen2ForCausalLM"]
    with torch.device("meta"):
        outline = transformers.Qwen2ForCausalLM(config).state_dict()
    torch.manual_seed(0)
    tensors = {EMBEDDING: some((ROWS, 32), torch.bfloat16), **head(HEAD, ROWS, 32)}
    for name, tensor in outline.items():
        if name not in (HEAD, EMBEDDING):
            tensors |= linear(name, *tensor.shape) if tensor.dim() == 2 else {name: some(tensor.shape, torch.bfloat16)}
    folder.mkdir()
    save_file({**tensors, **(more or {})}, folder / "model.safetensors", metadata or {"format": "pt"})
    raw = config.to_dict() | ({"quantization_config": quantisation} if quantisation else {})
    (folder / "config.json").write_text(json.dumps(raw))
    TOKENIZER.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_of_any_quantisation_only_rows_of_the_vocabulary_go(name, few, tmp_path):
    *how, tables = LAYOUTS[name]
    source = layout_folder(tmp_path / "dense", *how)
    report = trim(source, tmp_path / "out", few)
    kept = check_files(source, tmp_path / "out", {EMBEDDING, *tables})
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "out"))
    assert after.get("quantization_config") == before.get("quantization_config") and after["vocab_size"] == len(kept)
    method = (how[2] or {}).get("quant_method") or "None"
    assert method in report.kind and report.tokens_before == ROWS


def test_experts_in_four_bits_keep_every_byte(few, tmp_path):
    fields = {**TEXT, "num_local_experts": 4, "layer_types": ["sliding_attention", "full_attention"]}
    config = CONFIG_MAPPING["gpt_oss"](**fields)
    config.architectures = ["GptOssForCausalLM"]
    tensors = {}
    with torch.device("meta"):
        outline = transformers.GptOssForCausalLM(config).state_dict()
    for name, tensor in outline.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, columns, rows = tensor.shape
            tensors[f"{name}_blocks"] = some((experts, rows, columns // 16, 8), torch.uint8)
            tensors[f"{name}_scales"] = some((experts, rows, columns // 16), torch.uint8)
        else:
            tensors[name] = some(tensor.shape, torch.bfloat16)
    (tmp_path / "dense").mkdir()
    save_file(tensors, tmp_path / "dense" / "model.safetensors")
    raw = config.to_dict() | {"quantization_config": {"quant_method": "mxfp4"}}
    (tmp_path / "dense" / "config.json").write_text(json.dumps(raw))
    TOKENIZER.save_pretrained(tmp_path / "dense")
    trim(tmp_path / "dense", tmp_path / "out", few)
    check_files(tmp_path / "dense", tmp_path / "out", {EMBEDDING, HEAD})


def test_tables_of_a_layer_that_predicts_ahead_are_cut_too(few, tmp_path):
    """Transformers loads none of that layer, and others do."""
    ahead = {"model.layers.2.eh_proj.weight": (32, 64), "model.layers.2.shared_head.norm.weight": (32,)}
    tables = ["model.layers.2.embed_tokens.weight", "model.layers.2.shared_head.head.weight"]
    shapes = ahead | dict.fromkeys(tables, (ROWS, 32))
    more = {name: some(shape, torch.bfloat16) for name, shape in shapes.items()}
    source = layout_folder(tmp_path / "dense", *LAYOUTS["fp8"][:3], more)
    trim(source, tmp_path / "out", few)
    check_files(source, tmp_path / "out", {EMBEDDING, HEAD, *tables})


# --- refusals


def weights(change):
    """Changes the weights of a folder."""

    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        save_file(change(tensors) or tensors, folder / "model.safetensors", {"format": "pt"})

    return spoil


def headed(head):
    return weights(lambda tensors: {**{name: tensors[name] for name in tensors if name != HEAD}, **head})


def raw_config(**fields):
    return lambda folder: rewritten(folder, lambda raw: {**raw, **fields}) and None


def pickled(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def in_shards(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    half, names = len(tensors) // 2, [f"model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    parts = [dict([*tensors.items()][:half]), dict([*tensors.items()][half:])]
    for name, part in zip(names, parts, strict=True):
        save_file(part, folder / name, {"format": "pt", "made_by": name})
    places = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    index = {"metadata": {"total_size": 1, "of": "us"}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return names


def without_shard(folder):
    (folder / in_shards(folder)[1]).unlink()


def cut_short(folder):
    path = folder / in_shards(folder)[0]
    path.write_bytes(path.read_bytes()[:-5])


def without_tensor(folder):
    path = folder / in_shards(folder)[0]
    tensors = load_file(path)
    tensors.pop(min(tensors))
    save_file(tensors, path, {"format": "pt"})


def larger_tokenizer(folder):
    made = tokenizer_with_names()
    made.add_tokens([f"word{number}" for number in range(ROWS)])
    made.save_pretrained(folder)


REFUSED = {
    "gptq head": (headed(of_gptq(HEAD, ROWS, 32)), "lm_head.weight .* is stored as lm_head.g_idx"),
    "packed head": (headed(of_words(HEAD, ROWS, 32)), "lm_head.weight .* is stored as lm_head.weight_packed"),
    "four bits": (headed(of_bitsandbytes(HEAD, ROWS, 32)), rf"lm_head.weight .* is \[{ROWS * 16}, 1\] U8"),
    "blocks": (
        headed({**whole(HEAD, ROWS, 32), "lm_head.weight_scale_inv": torch.ones(5, 2)}),
        r"lm_head.weight .* is quantised with lm_head.weight_scale_inv of \[5, 2\]",
    ),
    "no head": (headed({}), "lm_head.weight .* is not among its weights"),
    "another head": (
        headed({**whole(HEAD, ROWS, 32), **whole("heads.0.weight", ROWS, 16)}),
        "heads.0.weight .* may have a row for each token",
    ),
    "pickled": (pickled, "has no model.safetensors"),
    "a shard is missing": (without_shard, "missing .*: model-00002-of-00002.safetensors"),
    "a shard is cut short": (cut_short, "model-00001-of-00002.safetensors"),
    "a shard lacks a tensor": (without_tensor, "lack .*, which its index names; download"),
    "other rows": (raw_config(vocab_size=ROWS + 8), rf"(embed_tokens|lm_head).weight .* is \[{ROWS}, 32\]"),
    "more tokens": (larger_tokenizer, f"tokens but the model embeds only {ROWS}"),
    "unknown class": (
        raw_config(model_type="unheard_of", architectures=["UnheardOfForCausalLM"]),
        "configuration .* cannot be read",
    ),
    "no text": (
        raw_config(model_type="musicgen", architectures=["MusicgenForConditionalGeneration"]),
        "cannot be read",
    ),
    "ids by name": (raw_config(vocabulary_map={"<image>": 5}), "vocabulary_map"),
    "a second model": (raw_config(talker_config={"tts_text_start_token_id": 7}), "talker_config"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return layout_folder(tmp_path_factory.mktemp("good") / "dense", *LAYOUTS["bfloat16"][:3])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trimmed_is_refused_before_anything_is_written(name, good, few, tmp_path):
    spoil, said = REFUSED[name]
    shutil.copytree(good, tmp_path / "dense")
    spoil(tmp_path / "dense")
    with pytest.raises(FlabError, match=said):
        trim(tmp_path / "dense", tmp_path / "out", few)
    assert not (tmp_path / "out").exists()


def test_a_configuration_that_would_make_another_model_is_refused(few, tmp_path, monkeypatch, good):
    from optimum_flab.trim.folder import FolderModel

    right = FolderModel._new_config
    monkeypatch.setattr(
        FolderModel, "_new_config", lambda self, kept: {**right(self, kept), "vocab_size": len(kept) + 1}
    )
    with pytest.raises(FlabError, match="makes another model: lm_head.weight would be"):
        trim(good, tmp_path / "out", few)
    assert not (tmp_path / "out").exists()


def test_nothing_to_trim_is_an_error(few, tmp_path):
    config = CONFIG_MAPPING["olmoe"](**{**CLASSES["olmoe"][1], "vocab_size": len(TOKENIZER)})
    transformers.OlmoeForCausalLM(config).save_pretrained(tmp_path / "dense")
    TOKENIZER.save_pretrained(tmp_path / "dense")
    everything = few.model_copy(update={"vocabulary": few.vocabulary.model_copy(update={"keep_merges": 20000})})
    with pytest.raises(FlabError, match="all 508 tokens of .* would stay"):
        trim(tmp_path / "dense", tmp_path / "out", everything)
    assert not (tmp_path / "out").exists()


def test_only_what_a_trim_wrote_is_replaced(good, few, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FlabError, match="notes.txt"):
            trim(good, tmp_path / "out", few, overwrite=overwrite)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]
    trim(good, tmp_path / "new", few)
    before = hashes_of(tmp_path / "new")
    with pytest.raises(FlabError, match="exists and is not empty"):
        trim(good, tmp_path / "new", few)
    trim(good, tmp_path / "new", few, overwrite=True)
    assert hashes_of(tmp_path / "new") == before


# --- what else is in the folder


def hashes_of(folder):
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_of_other_files_those_stay_that_still_fit(good, few, tmp_path):
    source, out = tmp_path / "dense", tmp_path / "out"
    shutil.copytree(good, source)
    names = in_shards(source)
    same = {"preprocessor_config.json": '{"size": 16}', "LICENSE": "free", "chat_template.json": "{}\n"}
    gone = (
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "spm.model",
        "pytorch_model.bin",
        ".hidden.json",
        "token.json",
    )
    code = "modeling.py"  # that no configuration names
    for name, content in {
        **same,
        **dict.fromkeys((*gone, code), "{}"),
        "README.md": "---\nlicense: mit\n---\n",
    }.items():
        (source / name).write_text(content)
    (source / "processor_config.json").write_text(json.dumps({"image_token_id": IMAGE, "image_seq_length": 4}))
    report = trim(source, out, few)
    kept = check_files(source, out)
    assert {name: (out / name).read_text() for name in same} == same
    assert not [name for name in (*gone, code) if (out / name).exists()]
    card = (out / "README.md").read_text()
    assert "license: mit" in card and "with fewer tokens in its vocabulary" in card
    assert AutoTokenizer.from_pretrained(out).chat_template == TOKENIZER.chat_template
    processor = json.loads((out / "processor_config.json").read_text())
    assert processor == {"image_token_id": kept.index(IMAGE), "image_seq_length": 4}
    # the files of the weights, and what says which tensor is in which
    index = json.loads((out / "model.safetensors.index.json").read_text())
    before = json.loads((source / "model.safetensors.index.json").read_text())
    size = sum(entry.end - entry.start for entry in stored(out).values())
    assert index == {**before, "metadata": {"of": "us", "total_size": size}}
    for name in names:
        with safe_open(out / name, framework="pt") as file:
            assert file.metadata() == {"format": "pt", "made_by": name}
            assert set(file.keys()) == {key for key in before["weight_map"] if index["weight_map"][key] == name}
    assert {path.name for path in out.iterdir()} == {*report.files, *Checkpoint(out).trim.others, "flab_trim.json"}


def test_the_size_is_known_before_anything_is_written(good, few, tmp_path):
    size = (good / "model.safetensors").stat().st_size - 2 * 64 * 200
    small = few.model_copy(update={"target_size": f"{size}B"})
    report = trim(good, tmp_path / "out", small)
    assert size - 2 * 64 * 2 < report.bytes_after <= size and 430 < report.tokens_after < 450


# --- plans


def test_a_plan_is_for_every_quantisation_of_the_same_model(good, few, tmp_path):
    trim(good, tmp_path / "out", few)
    plan = PruningPlan.load(tmp_path / "out")
    other = layout_folder(tmp_path / "other", *LAYOUTS["fp8-rows"][:3])
    report = trim(other, tmp_path / "applied", plan=plan)
    assert check_files(other, tmp_path / "applied", {EMBEDDING, HEAD, "lm_head.weight_scale"}) == plan.kept_tokens
    assert not report.held_out
    assert PruningPlan.load(tmp_path / "applied").kept == plan.kept
    assert (tmp_path / "applied" / "tokenizer.json").read_bytes() == (tmp_path / "out" / "tokenizer.json").read_bytes()


def test_a_plan_is_refused_for_other_tokens_and_for_a_model_that_names_more(good, few, tmp_path):
    trim(good, tmp_path / "out", few)
    plan, other = PruningPlan.load(tmp_path / "out"), tmp_path / "other"
    shutil.copytree(good, other)
    byte_level_tokenizer(520, special="<|stop|>").save_pretrained(other)
    with pytest.raises(FlabError, match="this model has others"):
        trim(other, tmp_path / "applied", plan=plan)
    TOKENIZER.save_pretrained(other)
    gone = min(set(range(len(TOKENIZER))).difference(plan.kept_tokens))
    rewritten(other, lambda raw: {**raw, "image_token_id": gone})
    with pytest.raises(FlabError, match="which this model names as a special token"):
        trim(other, tmp_path / "applied", plan=plan)
    assert not (tmp_path / "applied").exists()


def test_the_same_files_make_the_same_bytes(good, few, tmp_path):
    for name in ("one", "other"):
        trim(good, tmp_path / name, few)
    first, second = (hashes_of(tmp_path / name) for name in ("one", "other"))
    assert first == second and len(first) > 5


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(300, 505), layout=st.sampled_from(["bfloat16", "tied", "bitsandbytes-int8"]))
def test_at_any_size_rows_are_those_of_the_tokens_that_stay(size, layout, few, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    *how, tables = LAYOUTS[layout]
    source = layout_folder(folder / "dense", *how)
    sized = few.model_copy(update={"vocab_size": size})
    trim(source, folder / "out", sized)
    assert len(check_files(source, folder / "out", {EMBEDDING, *tables})) == size
