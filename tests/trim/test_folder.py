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
from optimum_flab.records.trim import TrimReport
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
    # rows behind those of the text, of which the first is that of the image
    "mllama": (
        "MllamaForConditionalGeneration",
        {
            "text_config": text(
                *("mllama_text_model",), vocab_size=IMAGE + 8, cross_attention_layers=[1], rope_parameters=ROPE
            ),
            "vision_config": {
                **{**VISION, "num_global_layers": 1, "attention_heads": 4, "vision_output_dim": 64},
                **{"intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1]], "max_num_tiles": 1},
            },
            "image_token_index": IMAGE,
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
    "aya_vision": (
        "AyaVisionForConditionalGeneration",
        towers("cohere2", "siglip_vision_model", image_token_index=IMAGE, downsample_factor=2),
    ),
    "bamba": ("BambaForCausalLM", {**TEXT, **SSM, "attn_layer_indices": [1]}),
    "biogpt": ("BioGptForCausalLM", TEXT),
    "bloom": ("BloomForCausalLM", {**BASE, "n_layer": 2, "n_head": 4}),
    "ernie4_5": ("Ernie4_5ForCausalLM", TEXT),
    "ernie4_5_moe": (
        "Ernie4_5_MoeForCausalLM",
        {
            **{**TEXT, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_num_shared_experts": 1},
            **{"moe_layer_start_index": 1, "moe_layer_end_index": 1},
        },
    ),
    "falcon": ("FalconForCausalLM", {**BASE, "num_attention_heads": 4}),
    "falcon_h1": ("FalconH1ForCausalLM", {**TEXT, **SSM, "mamba_d_ssm": 64}),
    "fuyu": (
        "FuyuForCausalLM",
        {**TEXT, "text_config": text("persimmon"), "patch_size": 4, "image_token_id": IMAGE},
    ),
    "gemma4": (
        "Gemma4ForConditionalGeneration",
        {
            "text_config": text("gemma4_text", **LAYER_INPUT, vocab_size_per_layer_input=ROWS, global_head_dim=8),
            "vision_config": {**VISION, "num_key_value_heads": 4, "head_dim": 8},
            **{"audio_config": None, "image_token_id": IMAGE, "video_token_id": VIDEO, "audio_token_id": AUDIO},
            **{"boi_token_id": BEGIN, "eoi_token_id": END, "boa_token_id": BEGIN, "eoa_token_index": END},
        },
    ),
    "glm4_moe": (
        "Glm4MoeForCausalLM",
        {
            **{**TEXT, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
            **{"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
        },
    ),
    "gpt_neo": ("GPTNeoForCausalLM", {**BASE, "num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]]}),
    "idefics3": (
        "Idefics3ForConditionalGeneration",
        {
            **towers("llama", "idefics3_vision", image_token_id=IMAGE, scale_factor=2),
            "pad_token_id": SPECIAL["pad_token_id"],
        },
    ),
    "internvl": (
        "InternVLForConditionalGeneration",
        {
            **{"text_config": text("qwen2"), "image_token_id": IMAGE, "image_seq_length": 1},
            "vision_config": {**VISION, "image_size": [16, 16], "patch_size": [8, 8]},
        },
    ),
    "jamba": (
        "JambaForCausalLM",
        {
            **{**TEXT, "num_experts": 4, "num_experts_per_tok": 2, "mamba_d_state": 8, "use_mamba_kernels": False},
            **{"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
        },
    ),
    "llama4_text": ("Llama4ForCausalLM", {**TEXT, **LOCAL, "num_experts_per_tok": 1, "intermediate_size_mlp": 48}),
    "mamba": ("MambaForCausalLM", {**BASE, "state_size": 8}),
    "minimax": ("MiniMaxForCausalLM", {**TEXT, **LOCAL}),
    "mistral3": (
        "Mistral3ForConditionalGeneration",
        {
            **{"text_config": text("mistral"), "image_token_index": IMAGE},
            "vision_config": {"model_type": "pixtral", **VISION, "head_dim": 8},
        },
    ),
    "mpt": ("MptForCausalLM", {"vocab_size": ROWS, "d_model": 32, "n_layers": 2, "n_heads": 4, **SPECIAL}),
    "nemotron_h": (
        "NemotronHForCausalLM",
        {
            **{**TEXT, "layers_block_type": ["mamba", "attention"], "mamba_num_heads": 8, "mamba_head_dim": 8},
            **{"ssm_state_size": 8, "chunk_size": 8, "n_groups": 1},
        },
    ),
    "olmoe": ("OlmoeForCausalLM", {**TEXT, **ROUTED}),
    "opt": ("OPTForCausalLM", {**BASE, "ffn_dim": 48, "num_attention_heads": 4, "word_embed_proj_dim": 16}),
    "paligemma": (
        "PaliGemmaForConditionalGeneration",
        {
            **{"text_config": text("gemma"), "image_token_index": IMAGE, "projection_dim": 32, **SPECIAL},
            "vision_config": {
                **{"model_type": "siglip_vision_model", **VISION, "projection_dim": 32, "vision_use_head": False}
            },
        },
    ),
    "qwen2_audio": (
        "Qwen2AudioForConditionalGeneration",
        {
            **{"text_config": text("qwen2"), "audio_token_index": AUDIO},
            "audio_config": {
                **{"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 48},
                **{"num_mel_bins": 8, "max_source_positions": 16},
            },
        },
    ),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        {**TEXT, **ROUTED, **LINEAR, "shared_expert_intermediate_size": 16},
    ),
    "qwen3_vl_moe": (
        "Qwen3VLMoeForConditionalGeneration",
        {
            "text_config": text("qwen3_vl_moe_text", **ROUTED, rope_parameters=ROPE),
            "vision_config": {**QWEN_VISION, "deepstack_visual_indexes": [0]},
            **{**QWEN_IDS, "vision_end_token_id": END},
        },
    ),
    "recurrent_gemma": (
        "RecurrentGemmaForCausalLM",
        {**TEXT, "lru_width": 32, "attention_window_size": 8, "block_types": ["recurrent", "attention"]},
    ),
    "smolvlm": (
        "SmolVLMForConditionalGeneration",
        {
            **{"text_config": text("llama"), "vision_config": VISION, "image_token_id": IMAGE, "scale_factor": 2},
            "pad_token_id": SPECIAL["pad_token_id"],
        },
    ),
    "zamba2": (
        "Zamba2ForCausalLM",
        {
            **{**TEXT, "layers_block_type": ["mamba", "hybrid"], "num_mem_blocks": 1, "adapter_rank": 4},
            **{"mamba_d_state": 8, "mamba_headdim": 8, "mamba_ngroups": 1, "chunk_size": 8},
        },
    ),
}
# what is stored twice is under one of two names in these, and whether there is an image in the input
WITH_IMAGES = ("gemma3", "llava", "paligemma")
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
    report, kept = TrimReport.load(out), PruningPlan.load(out).kept_tokens
    assert len(kept) == report.tokens_after < report.tokens_before
    before, after = tensor_hashes(weight_files(source)), tensor_hashes(weight_files(out))
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == set(report.tables) == (tables or {*report.tables})
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
        assert file == "config.json" or any(places[place] != ids for place, ids in ids_in(before))
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
