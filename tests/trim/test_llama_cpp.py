"""llama.cpp reads a trimmed file as it reads the dense one: tokens, logits, embeddings and texts are the same.

Equal means bit by bit, except where said otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING

from optimum_flab import PruningPlan, TrimSettings
from optimum_flab.checkpoints.loading import dense_from_memory
from optimum_flab.export import export_gguf, quantiser
from optimum_flab.settings.export import ExportSettings
from optimum_flab.tensors.gguf_header import read_header
from optimum_flab.tensors.stored import tensor_hashes
from optimum_flab.trim.run import trim
from optimum_flab.vocabulary.files import SAMPLES
from optimum_flab.vocabulary.gguf import BYTE, CONTROL, NORMAL, PREFIX, UNKNOWN, USER_DEFINED, read_tokenizer
from optimum_flab.vocabulary.pre_tokenizers import ALIASES, KNOWN

from ..conftest import PROSE, TEXTS, byte_level_tokenizer, thorough_but
from ..export.test_weights import FAMILIES, tiny
from ..gguf_writer import finish, write_random_gguf
from ..llama import LlamaFile


WIDTH, INNER, LAYERS, HEADS, CONTEXT = 64, 96, 2, 4, 64
TRAINED = [*TEXTS, *PROSE, *SAMPLES]
KINDS = gguf.GGMLQuantizationType
Shapes = dict[str, tuple[int, ...]]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


# --- tokenizers


def in_eights(tokens: Iterable[str]) -> list[str]:
    """Without repetitions; a multiple of eight, which is divided like a multiple of eight when it is computed with."""
    distinct = list(dict.fromkeys(tokens))
    return distinct[: len(distinct) // 8 * 8]


@cache
def byte_level() -> dict[str, Any]:
    """The fields of a file with a byte-level BPE."""
    tokenizer = byte_level_tokenizer(600)
    content = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return {
        **{"model": "gpt2", "pre": "gpt-2", "tokens": sorted(content["vocab"], key=content["vocab"].get)},
        **{"token_type": [CONTROL] * 2 + [NORMAL] * 598, "merges": [" ".join(pair) for pair in content["merges"]]},
        **{"eos_token_id": 0, "padding_token_id": 1, "add_bos_token": False},
    }


@cache
def scored_pieces(added: tuple[str, ...] = ()) -> dict[str, Any]:
    """Those of SentencePiece's BPE: any two neighbours that make a piece are merged, by its score."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    backend.train_from_iterator(TRAINED, trainers.BpeTrainer(vocab_size=600, show_progress=False))
    learnt = json.loads(backend.to_str())["model"]["vocab"]
    pieces = sorted(learnt, key=lambda piece: (len(piece) == 1, learnt[piece]))
    specials = ["<unk>", "<s>", "</s>"]
    tokens = in_eights([*specials, *BYTES, *added, "▁▁", "▁▁▁▁", *pieces])
    first = len(specials) + len(BYTES) + len(added)
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[USER_DEFINED] * len(added)]
    return {
        **{"model": "llama", "tokens": tokens, "token_type": kinds + [NORMAL] * (len(tokens) - first)},
        **{"scores": [0.0] * first + [-float(place) for place in range(len(tokens) - first)]},
        **{"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0},
    }


@cache
def unigram(added: tuple[str, ...] = ()) -> dict[str, Any]:
    """Those of a Unigram as in T5."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=600, show_progress=False, special_tokens=specials, unk_token="<unk>"
    )
    backend.train_from_iterator(TRAINED, trainer)
    learnt = dict(json.loads(backend.to_str())["model"]["vocab"])
    tokens = in_eights([*specials, *added, *learnt])
    return {
        **{"model": "t5", "tokens": tokens, "scores": [float(learnt.get(token, -4)) for token in tokens]},
        "token_type": [CONTROL, CONTROL, UNKNOWN, *[NORMAL] * (len(tokens) - 3)],
        **{"padding_token_id": 0, "eos_token_id": 1, "unknown_token_id": 2, "add_space_prefix": True},
    }


@cache
def word_pieces() -> dict[str, Any]:
    """Those of a BERT, as llama.cpp spells them: with a mark before what begins a word."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=600, show_progress=False, special_tokens=specials)
    backend.train_from_iterator(TRAINED, trainer)
    learnt = json.loads(backend.to_str())["model"]["vocab"]
    words = sorted(learnt, key=learnt.get)[len(specials) :]
    spelt = [word[2:] if word.startswith("##") and len(word) > 2 else f"▁{word}" for word in words]
    tokens = in_eights(specials + spelt)
    return {
        **{"model": "bert", "tokens": tokens, "token_type": [CONTROL] * 5 + [NORMAL] * (len(tokens) - 5)},
        **{"padding_token_id": 0, "unknown_token_id": 1, "bos_token_id": 2, "seperator_token_id": 3},
        **{"mask_token_id": 4, "token_type_count": 2},
    }


def write_file(
    path: Path,
    architecture: str,
    tokenizer: Mapping[str, Any],
    fields: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]] = {},
    table: gguf.GGMLQuantizationType = KINDS.F32,
    **split: Any,
) -> None:
    """Writes random weights; what has a row for each token is of the type that is named, all others are float32."""
    writer = gguf.GGUFWriter(path, architecture, **split)
    own = {f"{architecture}.{name}": value for name, value in fields.items()}
    for name, value in {**own, **{f"{PREFIX}{name}": value for name, value in tokenizer.items()}}.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add.get(type(value), writer.add_array)(name, value)
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = random.standard_normal(shape, dtype=np.float32) * 0.3 + ("norm.weight" in name)
        values = -abs(values) if name.endswith("ssm_a") else values  # what is remembered fades
        kind = table if shape[0] == len(tokenizer["tokens"]) and len(shape) > 1 else KINDS.F32
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    finish(writer)


# --- architectures


def with_bias(shapes: Shapes) -> Shapes:
    biases = {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items() if name.endswith("weight")}
    return shapes | biases


def matrices(heads: str = "attn_{}", names: str = "qkv", out: str = "attn_output") -> Shapes:
    """Those of an attention and an FFN without a gate."""
    square = {heads.format(name): (WIDTH, WIDTH) for name in names} | {out: (WIDTH, WIDTH)}
    return {f"{name}.weight": shape for name, shape in square.items()} | {
        "ffn_up.weight": (INNER, WIDTH),
        "ffn_down.weight": (WIDTH, INNER),
    }


def norms(*names: str) -> Shapes:
    return {f"{name}.weight": (WIDTH,) for name in names}


def blocks(shapes: Shapes, prefix: str = "", layers: int = LAYERS) -> Shapes:
    return {f"{prefix}blk.{layer}.{name}": shape for layer in range(layers) for name, shape in shapes.items()}


def tables(rows: int, *names: str) -> Shapes:
    return {f"{name}.weight": (rows, WIDTH) for name in names}


def bert(rows: int) -> Shapes:
    block = with_bias(matrices() | norms("attn_output_norm", "layer_output_norm"))
    rest = {"token_types.weight": (2, WIDTH), "position_embd.weight": (CONTEXT, WIDTH)}
    return tables(rows, "token_embd") | rest | with_bias(norms("token_embd_norm")) | blocks(block)


def phi2(rows: int) -> Shapes:
    block = {"attn_qkv.weight": (3 * WIDTH, WIDTH)} | matrices(names="") | norms("attn_norm")
    head = with_bias(norms("output_norm") | tables(rows, "output"))
    return tables(rows, "token_embd") | head | blocks(with_bias(block))


def t5_encoder(rows: int) -> Shapes:
    block = matrices(out="attn_o") | norms("attn_norm", "ffn_norm")
    relative = {"enc.blk.0.attn_rel_b.weight": (8, HEADS)}
    return tables(rows, "token_embd") | norms("enc.output_norm") | blocks(block, "enc.") | relative


def t5(rows: int) -> Shapes:
    block = matrices(out="attn_o") | matrices("cross_attn_{}", out="cross_attn_o")
    block |= norms("attn_norm", "cross_attn_norm", "ffn_norm")
    relative = {"dec.blk.0.attn_rel_b.weight": (8, HEADS)}
    return t5_encoder(rows) | norms("dec.output_norm") | blocks(block, "dec.") | relative


def mamba(rows: int) -> Shapes:
    inner, states, rank = 2 * WIDTH, 8, 4
    block = norms("attn_norm") | with_bias({"ssm_conv1d.weight": (inner, 4), "ssm_dt.weight": (inner, rank)})
    block |= {"ssm_in.weight": (2 * inner, WIDTH), "ssm_x.weight": (rank + 2 * states, inner)}
    block |= {"ssm_a": (inner, states), "ssm_d": (inner,), "ssm_out.weight": (WIDTH, inner)}
    return tables(rows, "token_embd") | norms("output_norm") | blocks(block)


def gemma3n(rows: int) -> Shapes:
    """A table for each layer, side by side."""
    each, ways, low = 256, 4, 64  # as llama.cpp has them
    block = matrices() | {"ffn_gate.weight": (INNER, WIDTH), "inp_gate.weight": (each, WIDTH)}
    block |= norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "post_norm", "altup_router_norm")
    block |= norms("altup_correct_scale", "laurel_post_norm")
    block |= {"attn_q_norm.weight": (WIDTH // HEADS,), "attn_k_norm.weight": (WIDTH // HEADS,)}
    block |= {"proj.weight": (WIDTH, each), "altup_correct_coef.weight": (ways, ways)}
    block |= {"altup_predict_coef.weight": (ways * ways, ways), "altup_router.weight": (ways, WIDTH)}
    block |= {"laurel_l.weight": (low, WIDTH), "laurel_r.weight": (WIDTH, low)}
    whole = {"per_layer_token_embd.weight": (rows, each * LAYERS), "per_layer_proj_norm.weight": (each,)}
    whole |= {"per_layer_model_proj.weight": (each * LAYERS, WIDTH)}
    whole |= {f"altup{name}_proj.weight": (ways - 1, WIDTH, WIDTH) for name in ("", "_unembd")}
    return tables(rows, "token_embd") | whole | norms("output_norm") | blocks(block)


def glm4(rows: int) -> Shapes:
    """A last layer that predicts one token ahead, with tables of its own."""
    block = matrices() | norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    block["ffn_up.weight"] = (2 * INNER, WIDTH)
    ahead = norms("enorm", "hnorm", "shared_head_norm") | tables(rows, "embed_tokens", "shared_head_head")
    ahead["eh_proj.weight"] = (WIDTH, 2 * WIDTH)
    last = {f"blk.{LAYERS}.nextn.{name}": shape for name, shape in ahead.items()}
    return tables(rows, "token_embd", "output") | norms("output_norm") | blocks(block, layers=LAYERS + 1) | last


BASE = {
    **{"context_length": CONTEXT, "embedding_length": WIDTH, "feed_forward_length": INNER, "block_count": LAYERS},
    **{"attention.head_count": HEADS, "attention.head_count_kv": HEADS},
}
RMS, RELATIVE = {"attention.layer_norm_rms_epsilon": 1e-6}, {"attention.relative_buckets_count": 8}


class Written(NamedTuple):
    """An architecture whose files are written here.

    Args:
        tokenizer (`Callable`): gives the fields of its tokenizer.
        shapes (`Callable`): gives the shapes of its tensors by the number of tokens.
        fields (`dict[str, Any]`): of the architecture, besides `BASE`.
        table (`str`): the type of its tables.
    """

    tokenizer: Callable[[], dict[str, Any]]
    shapes: Callable[[int], Shapes]
    fields: dict[str, Any]
    table: str


WRITTEN = {
    "bert": Written(word_pieces, bert, {"attention.layer_norm_epsilon": 1e-6, "attention.causal": False}, "F16"),
    "t5": Written(unigram, t5, {**RMS, **RELATIVE, "decoder_start_token_id": 0}, "Q8_0"),
    "mamba": Written(
        byte_level,
        mamba,
        {**RMS, "ssm.conv_kernel": 4, "ssm.inner_size": 128, "ssm.state_size": 8, "ssm.time_step_rank": 4},
        "F32",
    ),
    "gemma3n": Written(scored_pieces, gemma3n, {**RMS, "attention.sliding_window": 16}, "Q8_0"),
    "phi2": Written(byte_level, phi2, {"attention.layer_norm_epsilon": 1e-6, "rope.dimension_count": 8}, "Q5_0"),
    "t5encoder": Written(unigram, t5_encoder, {**RMS, **RELATIVE}, "BF16"),
    "glm4": Written(
        byte_level, glm4, {**RMS, "block_count": LAYERS + 1, "nextn_predict_layers": 1, "rope.dimension_count": 8}, "F16"
    ),
}
ENCODERS = ("bert", "t5encoder")  # which give embeddings only


# --- what is compared


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Settings by which about half of the tokens go."""
    file = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text * 2}) + "\n" for text in TEXTS))
    data = {"validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 1000, "sequence_length": 64}
    vocabulary = {"keep_merges": 0, "coverage": 1.0, "pad_to_multiple_of": 8}
    return TrimSettings(data={**data, "corpus": [str(file)]}, vocabulary=vocabulary)


def trimmed(dense: Path, settings: TrimSettings, out: Path) -> tuple[Path, list[int]]:
    """The new file, or the first one of several, and the ids that stay."""
    report = trim(dense, out, settings)
    assert not report.notes  # llama.cpp was there
    return out / min(report.files), PruningPlan.load(out).kept["vocab"]


def same_tokens(dense: LlamaFile, new: LlamaFile, kept: list[int]) -> int:
    """Compares the tokens of texts; returns how many texts were tokenised by tokens that stay."""
    stay, compared = set(kept), 0
    for text in [*TEXTS, *SAMPLES, *PROSE[:3]]:
        for special in (False, True):
            before, after = (file.tokenize(text, add_special=special) for file in (dense, new))
            if stay.issuperset(before):
                assert [kept[index] for index in after] == before, text
                compared += 1
    return compared


def compare(dense: Path, new: Path, kept: list[int], encoder: bool = False, source: bool = False) -> None:
    """Fails unless a trimmed file does what the dense one does, as far as only tokens that stay are concerned."""
    random = np.random.default_rng(0)
    with LlamaFile(dense, context=CONTEXT) as before, LlamaFile(new, context=CONTEXT) as after:
        assert same_tokens(before, after, kept) >= 2 * len(TEXTS)
        ids = random.integers(len(kept), size=40).tolist()
        same = [kept[index] for index in ids]
        if encoder:
            assert np.array_equal(before.embeddings(same), after.embeddings(ids))
            return
        reads = [(same, ids)] if source else [(None, None)]
        for one, other in reads:
            found, expected = after.logits(ids, other), before.logits(same, one)[:, kept]
            assert expected.std() > 0.1 and np.array_equal(found, expected), np.abs(found - expected).max()
        written = 0
        for start in range(8):
            begin = ids[start * 4 : start * 4 + 4]
            expected = before.complete([kept[index] for index in begin], 12, reads[0][0])
            found = [kept[index] for index in after.complete(begin, 12, reads[0][1])]
            whole = next((place for place, index in enumerate(expected) if index not in set(kept)), len(expected))
            assert found[:whole] == expected[:whole]
            written += whole
        print("WRITTEN", written)


@pytest.mark.parametrize("architecture", WRITTEN)
def test_files_of_any_architecture_do_what_they_did(architecture, few, tmp_path):
    tokenizer, shapes, fields, table = WRITTEN[architecture]
    content, dense = tokenizer(), tmp_path / "dense.gguf"
    rows = len(content["tokens"])
    write_file(dense, architecture, content, BASE | fields, shapes(rows), KINDS[table])
    new, kept = trimmed(dense, few, tmp_path / "out")
    print(architecture, rows, len(kept))
    compare(dense, new, kept, encoder=architecture in ENCODERS, source=architecture == "t5")
