"""Tiny models of real classes, and tokenizers trained on the spot."""

from __future__ import annotations

import gc
import importlib.util
import io
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import huggingface_hub.constants
import pytest
import torch
from optimum.commands.optimum_cli import main
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from optimum_flab import FlabPrunerConfig
from optimum_flab.criteria import NEURONS
from optimum_flab.families import family_for
from optimum_flab.measuring.dense_outputs import DenseOutputs, dense_outputs
from optimum_flab.measuring.divergence import OutputHead
from optimum_flab.pruning.components.deciding import NarrowLayer
from optimum_flab.pruning.components.neurons import decide_neurons
from optimum_flab.pruning.limits import Limits
from optimum_flab.pruning.request import Request
from optimum_flab.pruning.resolution import with_limits
from optimum_flab.pruning.shapes import masked_weights, without_layers
from optimum_flab.records.plan import PruningPlan
from optimum_flab.running.casting import replaced_step
from optimum_flab.running.layer_pass import LayerPass
from optimum_flab.running.layerwise import LayerStep
from optimum_flab.settings.pruning import DataSettings
from optimum_flab.sizes import ModelSizes, ParameterCounts, Shape
from optimum_flab.texts.formats import NO_FORMATS, Formats
from optimum_flab.texts.packing import PackedTokens, pack
from optimum_flab.texts.reading import read_texts
from optimum_flab.texts.sampling import CountTokens
from optimum_flab.texts.sets import TextSets, divide_texts


def pytest_configure(config: pytest.Config) -> None:
    """Work that is kept between runs goes to a folder of this session; the embedded model is put together once."""
    home, real = Path(tempfile.mkdtemp(prefix="flab-home-")), Path(huggingface_hub.constants.HF_HOME)
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    (home / "optimum_flab").mkdir()
    (real / "optimum_flab" / "demo").mkdir(parents=True, exist_ok=True)
    (home / "optimum_flab" / "demo").symlink_to(real / "optimum_flab" / "demo", target_is_directory=True)
    huggingface_hub.constants.HF_HOME = os.environ["HF_HOME"] = str(home)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="also run what `make test` leaves to `make test-all`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left = [] if config.getoption("--thorough") else [item for item in items if item.get_closest_marker("thorough")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in set(left)]


def pytest_collection_finish() -> None:
    """What is imported is never garbage; looking through it takes half a second whenever memory is given back."""
    gc.collect()
    gc.freeze()


def thorough_but(first: int, values: list) -> list:
    """Parameters of which only the first few are run unless `--thorough` is given."""
    return [*values[:first], *(pytest.param(*_tuple(value), marks=pytest.mark.thorough) for value in values[first:])]


def _tuple(value: object) -> tuple:
    return value if isinstance(value, tuple) else (value,)


def dense_of(text: LayerPass) -> DenseOutputs:
    """What the dense model makes of a text, all tokens counting alike."""
    layers = range(len(text.layers)) if text.family.experts is None else ()
    found = dense_outputs(text.part("dense"), OutputHead(text.model, text.family), layers)
    return replace(found, weights=text.tokens.mask.float())


def narrowed(
    text: LayerPass, layers: Iterable[int], width: int, criterion: str, **options
) -> Mapping[int, NarrowLayer]:
    """What layers keep at a width, each decided on top of the others, all tokens counting alike."""
    dense = dense_of(text) if NEURONS[criterion].reads_text else None
    return decide_neurons(text, list(layers), [width], NEURONS[criterion], dense, **options)[width]


def reading(model: PreTrainedModel, tokens: PackedTokens, batch_size: int = 4, **options) -> LayerPass:
    """A pass over the layers of a model of a known family."""
    return LayerPass(model, family_for(model.config), tokens, batch_size, **options)


def masked_step(model: PreTrainedModel, removed: Container[int], narrowed: Mapping[int, NarrowLayer]) -> LayerStep:
    """What each dense layer does once pruned, without surgery, in the dtype of the model."""
    family = family_for(model.config)
    return without_layers(replaced_step(model, family, masked_weights(model, family, narrowed)), removed)


@pytest.fixture(autouse=True)
def _nothing_kept() -> None:
    """No test goes on with the pruning of another one."""
    shutil.rmtree(Path(huggingface_hub.constants.HF_HOME, "optimum_flab", "pruning"), ignore_errors=True)


FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig, {"tie_word_embeddings": False}),
    "llama-bias": (
        LlamaForCausalLM,
        LlamaConfig,
        {"tie_word_embeddings": True, "mlp_bias": True, "attention_bias": True},
    ),
    "mistral": (MistralForCausalLM, MistralConfig, {"sliding_window": 8}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"tie_word_embeddings": True, "head_dim": 16}),
    "gemma3_text": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {
            "head_dim": 16,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 16,
        },
    ),
}
# the sizes of Qwen2.5-Coder-0.5B, for arithmetic
QWEN = ParameterCounts(
    {
        ("vocabulary", ("vocab",)): 896,
        ("ffn", ("neuron", "layer")): 3 * 896,
        ("attention and norms", ("layer",)): 1_838_208,
        ("other", ()): 896,
    }
)
DENSE = Shape(vocab=151_936, layer=24, neuron=4864)


def limits(vocab: tuple[int, int], layer: tuple[int, int], neuron: tuple[int, int], multiple_of: int = 64) -> Limits:
    """Bounds of the sizes of a dense model, and the granularity of its width."""
    return Limits(
        DENSE,
        QWEN,
        {
            "vocab": range(vocab[0], vocab[1] + 1),
            "layer": range(layer[0], layer[1] + 1),
            "neuron": range(neuron[0], neuron[1] + 1, multiple_of),
        },
    )


def request_for(config: FlabPrunerConfig, sizes: ModelSizes, tokens: int | None = None, **fields) -> Request:
    """What a configuration asks of a model of these sizes, with a token for each row of its embedding."""
    return with_limits(Request(config, sizes, tokens or sizes.shape["vocab"], **fields))


LIMITS = limits((1000, 151_665), (1, 24), (64, 4864))

VOCABULARY = 320
LAYERS = 4
WIDTH = 64


class Result(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def flab(*arguments: object, cwd: Path | None = None) -> Result:
    """Runs `optimum-cli flab` in this process, in a folder."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    code = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        patch.setattr(sys, "argv", ["optimum-cli", "flab", *map(str, arguments)])
        if cwd is not None:
            patch.chdir(cwd)
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return Result(code, *(stream.buffer.getvalue().decode() for stream in streams))


def script(path: Path) -> ModuleType:
    """An example or a benchmark as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def in_two_processes(work: Callable, *arguments: object) -> list:
    """What `work(rank, *arguments)` returns in each of two processes that are launched together."""
    port = free_port()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.conftest"])  # what is imported once serves every process
    found = context.Queue()
    started = [context.Process(target=_one_of_two, args=(rank, port, found, work, arguments)) for rank in range(2)]
    for process in started:
        process.start()
    results = dict(found.get(timeout=300) for _ in started)
    for process in started:
        process.join()
    return [results[rank] for rank in range(2)]


def _one_of_two(rank: int, port: int, found: multiprocessing.Queue, work: Callable, arguments: tuple) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    try:
        found.put((rank, work(rank, *arguments)))
    except BaseException as error:
        found.put((rank, repr(error)))
        raise


def tiny_model(family: str, vocab_size: int = VOCABULARY, **changes) -> torch.nn.Module:
    """A four-layer model of a real class with seeded weights that are not so small that nothing matters."""
    model_class, config_class, fields = FAMILIES[family]
    config = config_class(
        **{
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "intermediate_size": WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
            "initializer_range": 0.3,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
            **fields,
            **changes,
        }
    )
    torch.manual_seed(0)
    return model_class(config).eval().requires_grad_(False)


def saved(model: PreTrainedModel, folder: Path, **options) -> Path:
    """Writes a model with 600 rows to a folder, and a tokenizer beside it."""
    model.save_pretrained(folder, **options)
    byte_level_tokenizer(600).save_pretrained(folder)
    return folder


SMALL_DATA = {"calibration_tokens": 256, "validation_tokens": 64, "held_out_tokens": 64, "sequence_length": 32}


def small_config(folder: Path, **sections) -> FlabPrunerConfig:
    """A pruning of a moment, by texts that are written to a folder."""
    path = folder / "code.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return FlabPrunerConfig(
        **{
            "data": {**SMALL_DATA, "corpus": [f"{path}[text]"]},
            "vocabulary": {"keep_merges": 0},
            "ffn": {"multiple_of": 8},
            **sections,
        }
    )


SMALL = """
data: {{calibration_tokens: 256, validation_tokens: 64, held_out_tokens: 64, sequence_length: 32, corpus: [{texts}]}}
vocabulary: {{keep_merges: 0}}
ffn: {{multiple_of: 4}}
"""


def write_project(folder: Path, model: str, texts: str) -> None:
    """A tiny model and a few texts in folders of these names, and `small.yaml`, by which it is pruned in seconds."""
    tiny_model("qwen2", 600).save_pretrained(folder / model)
    byte_level_tokenizer(600).save_pretrained(folder / model)
    (folder / texts).mkdir()
    for number, text in enumerate(TEXTS):
        (folder / texts / f"{number}.py").write_text(text, encoding="utf-8")
    (folder / "small.yaml").write_text(SMALL.format(texts=texts), encoding="utf-8")


def text_sets(data: DataSettings, count_tokens: CountTokens, seed: int, formats: Formats = NO_FORMATS) -> TextSets:
    """The sets of the texts that settings name."""
    return divide_texts(read_texts(data, seed), data, count_tokens, seed, formats)


def plan_of(
    kept_tokens: list[int] | None,
    kept_layers: list[int],
    kept_neurons: dict[int, list[int]],
    kept_experts: dict[int, list[int]] | None = None,
    kept_inside: dict[str, dict[int, list[int]]] | None = None,
    **fields,
) -> PruningPlan:
    """A plan of a tiny model, in float32, without compensation."""
    defaults = {
        **dict.fromkeys(("base_model", "base_hash", "corpus_hash"), "tiny"),
        **{"base_revision": None, "dtype": "float32", "settings": {}},
        "vocab_size": VOCABULARY if kept_tokens is None else len(kept_tokens),
    }
    inside = {"neuron": kept_neurons, "expert": kept_experts or {}, **(kept_inside or {})}
    kept = {"layer": kept_layers, **{name: layers for name, layers in inside.items() if layers}}
    if kept_tokens is not None:
        kept["vocab"] = kept_tokens
    return PruningPlan(kept=kept, **{**defaults, **fields})


def random_tokens(documents: int = 24, vocabulary: int = VOCABULARY, length: int = 32, seed: int = 0) -> PackedTokens:
    """Packed documents of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    lists = [
        torch.randint(
            vocabulary, (int(torch.randint(4, 30, (1,), generator=generator)),), generator=generator
        ).tolist()
        for _ in range(documents)
    ]
    return pack(lists, length, 0)


TEXTS = [
    f"def add_{name}(a, b):\n    '''Return the sum of {name} and b.'''\n    total = a + b * {number}\n"
    f"    return total\n\nclass {name.title()}Holder:\n    value = {number}\n"
    f"    def get(self):\n        return self.value + {number * 7}\n"
    for number, name in enumerate(
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi".split()
    )
]


def byte_level_tokenizer(vocab_size: int = 600, special: str = "<|endoftext|>") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with two special tokens and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[special, "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS + PROSE, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=special,
        pad_token="<|pad|>",
        chat_template="{{ messages[0]['content'] }}" + special,
    )


PROSE = [
    "The quick brown fox jumps over the lazy dog while seventeen philosophers argue about mountains and rivers.",
    "Nobody remembers the gardener who planted these orchards, although everyone praises their wonderful apples.",
    "Architecture, literature, chemistry and geography were taught in separate buildings beyond the cathedral.",
] * 3


@pytest.fixture(params=thorough_but(3, ["llama-bias", "qwen2", "gemma3_text", "llama", "mistral", "qwen3"]))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def interruptible():
    """Processes that this test starts can be interrupted, even where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
