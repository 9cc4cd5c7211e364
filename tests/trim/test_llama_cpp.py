"""llama.cpp reads a trimmed file as it reads the dense one: tokens, logits, embeddings and texts are the same.

Equal means bit by bit, except where said otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from optimum_flab import FlabError, PruningPlan, TrimSettings
from optimum_flab.export import export_gguf
from optimum_flab.settings.export import ExportSettings
from optimum_flab.tensors.gguf_header import read_header
from optimum_flab.trim.run import trim
from optimum_flab.vocabulary.files import SAMPLES
from optimum_flab.vocabulary.gguf import read_tokenizer
from optimum_flab.vocabulary.pre_tokenizers import ALIASES, KNOWN, READ

from ..conftest import PROSE, TEXTS, byte_level_tokenizer, thorough_but
from ..export.test_weights import saved, tiny
from ..gguf_writer import finish
from ..llama import LlamaFile


WIDTH, INNER, LAYERS, HEADS, CONTEXT = 64, 96, 2, 4, 64
TRAINED = [*TEXTS, *PROSE, *SAMPLES]
KINDS = gguf.GGMLQuantizationType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, _, BYTE = range(1, 7)  # types of tokens, as GGUF numbers them
PREFIX = "tokenizer.ggml."
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
    pieces = sorted(learnt, key=lambda piece: (len(piece) > 1, learnt[piece]))
    specials = ["<unk>", "<s>", "</s>"]
    tokens = in_eights([*specials, *BYTES, *added, *"▁-=", "▁▁", "▁▁▁▁", *pieces])
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
    trainer = trainers.UnigramTrainer(vocab_size=600, show_progress=False, special_tokens=specials, unk_token="<unk>")
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
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
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


def attention(heads: str = "attn_{}", names: str = "qkv", out: str = "attn_output") -> Shapes:
    return {f"{name}.weight": (WIDTH, WIDTH) for name in (*map(heads.format, names), out)}


def ffn(*, gate: bool = False, experts: tuple[int, ...] = (), suffix: str = "") -> Shapes:
    into = {f"ffn_{name}{suffix}.weight": (*experts, INNER, WIDTH) for name in ("up", "gate")[: 1 + gate]}
    return into | {f"ffn_down{suffix}.weight": (*experts, WIDTH, INNER)}


def norms(*names: str) -> Shapes:
    return {f"{name}.weight": (WIDTH,) for name in names}


def blocks(shapes: Shapes, prefix: str = "", layers: int = LAYERS) -> Shapes:
    return {f"{prefix}blk.{layer}.{name}": shape for layer in range(layers) for name, shape in shapes.items()}


def tables(rows: int, *names: str) -> Shapes:
    return {f"{name}.weight": (rows, WIDTH) for name in names}


def bert(rows: int) -> Shapes:
    block = with_bias(attention() | ffn() | norms("attn_output_norm", "layer_output_norm"))
    rest = {"token_types.weight": (2, WIDTH), "position_embd.weight": (CONTEXT, WIDTH)}
    return tables(rows, "token_embd") | rest | with_bias(norms("token_embd_norm")) | blocks(block)


def gpt2(rows: int) -> Shapes:
    block = {"attn_qkv.weight": (3 * WIDTH, WIDTH)} | attention(names="") | ffn() | norms("attn_norm", "ffn_norm")
    rest = {"position_embd.weight": (CONTEXT, WIDTH)} | with_bias(norms("output_norm"))
    return tables(rows, "token_embd") | rest | blocks(with_bias(block))


def phi2(rows: int) -> Shapes:
    """A head with a bias."""
    block = attention() | ffn() | norms("attn_norm")
    head = with_bias(norms("output_norm") | tables(rows, "output"))
    return tables(rows, "token_embd") | head | blocks(with_bias(block))


def nemotron(rows: int) -> Shapes:
    block = attention() | ffn() | with_bias(norms("attn_norm", "ffn_norm"))
    return tables(rows, "token_embd", "output") | with_bias(norms("output_norm")) | blocks(block)


def qwen2moe(rows: int) -> Shapes:
    block = attention() | norms("attn_norm", "ffn_norm") | {f"attn_{name}.bias": (WIDTH,) for name in "qkv"}
    block |= ffn(gate=True, experts=(4,), suffix="_exps")
    block |= ffn(gate=True, suffix="_shexp") | {
        "ffn_gate_inp.weight": (4, WIDTH),
        "ffn_gate_inp_shexp.weight": (WIDTH,),
    }
    return tables(rows, "token_embd", "output") | norms("output_norm") | blocks(block)


def t5_encoder(rows: int) -> Shapes:
    block = attention(out="attn_o") | ffn() | norms("attn_norm", "ffn_norm")
    relative = {"enc.blk.0.attn_rel_b.weight": (8, HEADS)}
    return tables(rows, "token_embd") | norms("enc.output_norm") | blocks(block, "enc.") | relative


def t5(rows: int) -> Shapes:
    block = attention(out="attn_o") | attention("cross_attn_{}", out="cross_attn_o") | ffn()
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
    block = attention() | ffn(gate=True) | {"inp_gate.weight": (each, WIDTH), "proj.weight": (WIDTH, each)}
    block |= norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "post_norm", "altup_router_norm")
    block |= norms("altup_correct_scale", "laurel_post_norm")
    block |= {f"attn_{name}_norm.weight": (WIDTH // HEADS,) for name in "qk"}
    block |= {"altup_correct_coef.weight": (ways, ways), "altup_predict_coef.weight": (ways * ways, ways)}
    block |= {"altup_router.weight": (ways, WIDTH), "laurel_l.weight": (low, WIDTH), "laurel_r.weight": (WIDTH, low)}
    whole = {"per_layer_token_embd.weight": (rows, each * LAYERS), "per_layer_proj_norm.weight": (each,)}
    whole |= {"per_layer_model_proj.weight": (each * LAYERS, WIDTH)}
    whole |= {f"altup{name}_proj.weight": (ways - 1, WIDTH, WIDTH) for name in ("", "_unembd")}
    return tables(rows, "token_embd") | whole | norms("output_norm") | blocks(block)


def glm4(rows: int) -> Shapes:
    """A last layer that predicts one token ahead, with tables of its own."""
    block = attention() | ffn() | norms("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    block["ffn_up.weight"] = (2 * INNER, WIDTH)
    ahead = norms("enorm", "hnorm", "shared_head_norm") | tables(rows, "embed_tokens", "shared_head_head")
    ahead["eh_proj.weight"] = (WIDTH, 2 * WIDTH)
    last = {f"blk.{LAYERS}.nextn.{name}": shape for name, shape in ahead.items()}
    return tables(rows, "token_embd", "output") | norms("output_norm") | blocks(block, layers=LAYERS + 1) | last


BASE = {
    **{"context_length": CONTEXT, "embedding_length": WIDTH, "feed_forward_length": INNER, "block_count": LAYERS},
    **{"attention.head_count": HEADS, "attention.head_count_kv": HEADS, "rope.dimension_count": WIDTH // HEADS},
}
PLAIN, RMS = ({f"attention.layer_norm_{name}": 1e-6} for name in ("epsilon", "rms_epsilon"))
RELATIVE = {"attention.relative_buckets_count": 8}
EXPERTS = {
    **{"expert_count": 4, "expert_used_count": 2},
    **{"expert_feed_forward_length": INNER, "expert_shared_feed_forward_length": INNER},
}
SPACES = {"ssm.conv_kernel": 4, "ssm.inner_size": 2 * WIDTH, "ssm.state_size": 8, "ssm.time_step_rank": 4}


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
    "bert": Written(word_pieces, bert, {**PLAIN, "attention.causal": False}, "F16"),
    "gemma3n": Written(scored_pieces, gemma3n, {**RMS, "attention.sliding_window": 16}, "Q4_0"),
    "glm4": Written(byte_level, glm4, {**RMS, "block_count": LAYERS + 1, "nextn_predict_layers": 1}, "F16"),
    "gpt2": Written(byte_level, gpt2, PLAIN, "BF16"),
    "mamba": Written(byte_level, mamba, RMS | SPACES, "F32"),
    "nemotron": Written(byte_level, nemotron, PLAIN, "Q4_1"),
    "phi2": Written(byte_level, phi2, PLAIN, "Q5_0"),
    "qwen2moe": Written(byte_level, qwen2moe, RMS | EXPERTS, "Q5_1"),
    "t5": Written(unigram, t5, {**RMS, **RELATIVE, "decoder_start_token_id": 0}, "Q8_0"),
}
# what the exporter writes, and types: those of llama.cpp's quantiser differ from matrix to matrix
EXPORTED = [
    *(("llama", "q4_k_m"), ("qwen2", "q3_k_m"), ("gemma3_text", "f16"), ("phi3", "q8_0"), ("qwen3_moe", "bf16")),
    *(("starcoder2", "iq4_xs"), ("granite", "q8_0"), ("qwen3", "f32"), ("mistral", "q5_k_s")),
]
MIXED = {"hidden_size": 256, "intermediate_size": 512}  # of whole blocks of 256 weights


# --- what is compared


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Settings by which many of the tokens go. That a multiple of eight stays lets llama.cpp divide its work as
    before: see the test with other numbers."""
    file = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text * 2}) + "\n" for text in TEXTS))
    data = {"validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 1000, "sequence_length": 64}
    vocabulary = {"keep_merges": 0, "coverage": 1.0, "pad_to_multiple_of": 8}
    return TrimSettings(data={**data, "corpus": [str(file)]}, vocabulary=vocabulary)


def trimmed(dense: Path, settings: TrimSettings, out: Path) -> tuple[Path, list[int]]:
    """The new file, or the first one of several, and the ids that stay."""
    report = trim(dense, out, settings)
    assert not report.notes and report.tokens_after < report.tokens_before  # llama.cpp was there
    return out / min(report.files), PruningPlan.load(out).kept["vocab"]


def check_tokens(dense: LlamaFile, new: LlamaFile, kept: list[int], texts: Iterable[str]) -> int:
    """Fails where a text is tokenised otherwise although its tokens stay; returns how many texts that is said of."""
    stay, compared = set(kept), 0
    for text in texts:
        for frame in (False, True):
            before, after = (file.tokenize(text, add_special=frame) for file in (dense, new))
            if stay.issuperset(before):
                assert [kept[index] for index in after] == before, text
                compared += 1
    for place, index in enumerate(kept):
        assert (new.piece(place), new.is_end(place)) == (dense.piece(index), dense.is_end(index))
    return compared


def check_predictions(dense: LlamaFile, new: LlamaFile, kept: list[int], reads: bool = False) -> None:
    """Fails where another score is given to a token that stays, or another text written.

    Args:
        reads (`bool`): whether an encoder reads a text first.
    """
    ids = np.random.default_rng(0).integers(len(kept), size=40).tolist()
    same = [kept[index] for index in ids]
    sources = (same, ids) if reads else (None, None)
    expected = dense.logits(same, sources[0])[:, kept]
    assert expected.std() > 0.1  # nan is not
    np.testing.assert_array_equal(new.logits(ids, sources[1]), expected)
    written = 0
    for at in range(0, len(ids), 4):
        texts = [
            file.complete(begin[at : at + 4], 12, source)
            for file, begin, source in zip((dense, new), (same, ids), sources, strict=True)
        ]
        stays = len(list(takewhile(set(kept).__contains__, texts[0])))
        assert [kept[index] for index in texts[1][:stays]] == texts[0][:stays]
        written += stays
    assert written  # so that something was compared


@pytest.mark.parametrize("architecture", WRITTEN)
def test_models_of_any_architecture_do_what_they_did(architecture, few, tmp_path):
    tokenizer, shapes, fields, table = WRITTEN[architecture]
    content, dense = tokenizer(), tmp_path / "dense.gguf"
    write_file(dense, architecture, content, BASE | fields, shapes(len(content["tokens"])), KINDS[table])
    new, kept = trimmed(dense, few, tmp_path / "out")
    with LlamaFile(dense, context=CONTEXT) as before, LlamaFile(new, context=CONTEXT) as after:
        assert check_tokens(before, after, kept, TRAINED) >= len(TEXTS)
        if architecture == "bert":  # which gives embeddings only
            ids = np.random.default_rng(0).integers(len(kept), size=40).tolist()
            np.testing.assert_array_equal(after.embeddings(ids), before.embeddings([kept[index] for index in ids]))
        else:
            check_predictions(before, after, kept, reads=architecture == "t5")


@pytest.mark.parametrize(("model_type", "kind"), thorough_but(6, EXPORTED))
def test_exported_models_of_any_type_do_what_they_did(model_type, kind, few, tmp_path):
    quantised = ExportSettings(type=kind).is_quantised
    loaded = saved(tiny(model_type, **MIXED if quantised else {}), byte_level_tokenizer(600), tmp_path / "model")
    dense = tmp_path / "dense.gguf"
    export_gguf(loaded, dense, ExportSettings(type=kind, imatrix=False))
    kinds = {tensor.kind for tensor in read_header(dense).tensors.values()}
    assert len(kinds) == 1 if kind == "f32" else len(kinds) >= (3 if quantised else 2)
    new, kept = trimmed(dense, few, tmp_path / "out")
    with LlamaFile(dense, context=CONTEXT) as before, LlamaFile(new, context=CONTEXT) as after:
        assert check_tokens(before, after, kept, TRAINED) >= len(TEXTS)
        check_predictions(before, after, kept)


@pytest.mark.parametrize("table", ["Q8_0", "F32", "Q4_0"])
def test_with_any_number_of_tokens_only_the_order_of_sums_differs(table, few, tmp_path):
    """llama.cpp has other code for rows of floats in fours, and of Q4_0 in eights, than for those that are left."""
    content, dense = byte_level(), tmp_path / "dense.gguf"
    write_file(dense, "nemotron", content, BASE | PLAIN, nemotron(600), KINDS[table])
    vocabulary = {**few.vocabulary.model_dump(), "pad_to_multiple_of": None}
    settings = TrimSettings(vocab_size=449, data=few.data, vocabulary=vocabulary)
    new, kept = trimmed(dense, settings, tmp_path / "out")
    ids = np.random.default_rng(0).integers(len(kept), size=40).tolist()
    with LlamaFile(dense, context=CONTEXT) as before, LlamaFile(new, context=CONTEXT) as after:
        expected, found = before.logits([kept[index] for index in ids])[:, kept], after.logits(ids)
    assert len(kept) == 449
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if table == "Q8_0" else 2e-6 * expected.std())


@pytest.mark.parametrize("first", [False, True], ids=["tensors in all", "only fields in the first"])
def test_parts_stay_parts_that_are_loaded_together(first, few, tmp_path):
    shapes, options = nemotron(600), {"split_max_tensors": 9, "small_first_shard": first}
    shapes["output.weight"] = shapes.pop("output.weight")  # in the last one
    write_file(tmp_path / "dense.gguf", "nemotron", byte_level(), BASE | PLAIN, shapes, **options)
    parts = sorted(path.name for path in tmp_path.glob("*.gguf"))
    assert parts[0].endswith(f"-00001-of-{len(parts):05d}.gguf") and len(parts) == 3 + first
    new, kept = trimmed(tmp_path / parts[0], few, tmp_path / "out")
    assert sorted(path.name for path in new.parent.glob("*.gguf")) == [
        name.replace("dense", "dense-trimmed") for name in parts
    ]
    with LlamaFile(tmp_path / parts[0], context=CONTEXT) as before, LlamaFile(new, context=CONTEXT) as after:
        check_predictions(before, after, kept)


# --- tokenizers as they are read here

WORDS = [word for text in TRAINED for word in text.split()]
BETWEEN = ["", " ", " ", "  ", "    ", "\n", "\n\n", "\t", "aaaa", "---", "=", "<|endoftext|>", "</s>", "<s>"]
TRICKY = (
    *("", "I'LL don't WE'VE it's", "b'tis c'tis g'tis k'tis m'tis v'tis", "1 22 333 4444 ٣٤٥ ²³", "ﬁ ǅ ʰ", "aa"),
    *("HTTPServer getURL iPhone", "a\r\nb\r\n\r\nc /* x */ //\n", "/path/to/file.py:12", "ประเทศไทย"),
    *("\u00a0nbsp\u3000wide", "\n   \n  x", "€100 £5 +1-2=3 ^~|`$"),
)


def random_texts(count: int) -> list[str]:
    random = np.random.default_rng(0)
    texts = ([random.choice(part) for part in (WORDS, BETWEEN) * 4] for _ in range(count))
    return ["".join(parts[: 2 + index % 7]) for index, parts in enumerate(texts)]


def check_reading(path: Path, texts: Iterable[str], frame: bool = True) -> None:
    """Fails where the tokenizer that is read from a file does not do what llama.cpp does."""
    backend = read_tokenizer(read_header(path).fields).backend_tokenizer
    with LlamaFile(path, vocab_only=True) as file:
        for text in texts:
            for special in (False, True)[: 1 + frame]:
                found = backend.encode(text, add_special_tokens=special).ids
                assert found == file.tokenize(text, add_special=special), (text, special)


TWO = ("  ", "\n", "\n\n", "    ")
TOKENIZERS = {
    "byte-level": (byte_level, (), {}),
    "pieces": (scored_pieces, (), {}),
    "pieces, no space in front": (scored_pieces, (), {"add_space_prefix": False}),
    "pieces, own tokens": (scored_pieces, TWO, {"add_space_prefix": True, "add_eos_token": True}),
    "pieces, own tokens, no space in front": (scored_pieces, TWO, {"add_space_prefix": False, "add_bos_token": False}),
    "unigram": (unigram, (), {}),
    "unigram, no space in front": (unigram, (), {"add_space_prefix": False}),
    "unigram, single spaces": (unigram, (), {"remove_extra_whitespaces": True}),
    "unigram, across spaces": (unigram, ("▁▁", "▁▁▁▁", "n▁t"), {"add_eos_token": False}),
    "unigram, across single spaces": (
        unigram,
        ("n▁t",),
        {"add_space_prefix": False, "remove_extra_whitespaces": True},
    ),
    "word pieces": (word_pieces, (), {}),
    "word pieces, cased": (word_pieces, (), {"normalizer.lowercase": False}),
    "word pieces, accents": (word_pieces, (), {"normalizer.strip_accents": False}),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tokenizers_of_any_kind_are_read_and_trimmed_as_llama_cpp_has_them(kind, few, tmp_path):
    make, added, options = TOKENIZERS[kind]
    content, dense = {**make(*([added] if added else [])), **options}, tmp_path / "dense.gguf"
    write_file(dense, "llama", content, BASE | RMS, tables(len(content["tokens"]), "token_embd"))
    texts = [*TRAINED, *TRICKY, *random_texts(200)]
    if make is word_pieces:  # of a syllable of Hangul llama.cpp keeps the first letter when it strips accents
        texts = [text for text in texts if "국" not in text]
    new, kept = trimmed(dense, few, tmp_path / "out")
    for path in (dense, new):
        check_reading(path, texts)
    with LlamaFile(dense, vocab_only=True) as before, LlamaFile(new, vocab_only=True) as after:
        assert check_tokens(before, after, kept, texts) >= 100


def across_words() -> dict[str, Any]:
    """Merges that no first step keeps from crossing words, a token that no merge makes, and one that llama.cpp takes
    for the end of a text because of its name."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    backend.train_from_iterator([*SAMPLES, *TRICKY] * 2, trainer)
    model = json.loads(backend.to_str())["model"]
    tokens = [*sorted(model["vocab"], key=model["vocab"].get), "Ġunmerged", "</s>"]
    kinds = [CONTROL] + [NORMAL] * (len(tokens) - 1)
    merges = [" ".join(pair) for pair in model["merges"]]
    return {"model": "gpt2", "tokens": tokens, "token_type": kinds, "merges": merges, "eos_token_id": 0}


def test_words_are_split_as_llama_cpp_does_under_each_of_its_names(tmp_path):
    own = [name for names in KNOWN.values() for name in names if name] + [*READ]
    names = own + [name for others in ALIASES.values() for name in others]
    content, unknown, split = across_words(), [], {}
    texts = [*SAMPLES, *TRICKY, *TEXTS[:2], *random_texts(40), "it is unmerged here"]
    for name in names:
        path = tmp_path / f"{name or 'none'}.gguf"
        write_file(path, "llama", {**content, "pre": name}, BASE | RMS)
        try:
            with LlamaFile(path, vocab_only=True) as file:
                split[name] = tuple(tuple(file.tokenize(text)) for text in texts)
        except RuntimeError as refused:
            assert "unknown pre-tokenizer type" in str(refused)
            unknown.append(name)
        else:
            check_reading(path, texts, frame=False)
    assert len(unknown) <= len(names) // 10, unknown  # llama.cpp drops hardly any
    assert len(set(split.values())) == len(own) - len(unknown)  # texts that tell all of them apart


# --- what holds ids


def test_lists_of_ids_are_renumbered_and_tables_in_layers_cut(few, tmp_path):
    dense, listed = tmp_path / "dense.gguf", {"suppress_tokens": [5, 300, 599], "stop_token_ids": [400]}
    shapes = tables(600, "token_embd") | {"blk.0.ffn_gate_tid2eid.weight": (600, 2)}
    write_file(dense, "llama", byte_level() | listed, BASE | RMS, shapes)
    new, kept = trimmed(dense, few, tmp_path / "out")
    header = read_header(new)
    assert header.tensors["blk.0.ffn_gate_tid2eid.weight"].shape == (len(kept), 2)
    renumbered = {name: [kept[index] for index in header.fields[f"{PREFIX}{name}"]] for name in listed}
    assert renumbered == {
        "suppress_tokens": [index for index in listed["suppress_tokens"] if index in kept],
        "stop_token_ids": [400],
    }
    hashed = tmp_path / "hashed.gguf"
    write_file(hashed, "qwen4exp", byte_level(), BASE | RMS | {"ple.ngram_size": 3}, tables(600, "token_embd"))
    with pytest.raises(FlabError, match="computes with the ids of tokens"):
        trim(hashed, tmp_path / "no", few)
