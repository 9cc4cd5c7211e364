"""Every command of the pages is run, on tiny models, in a folder in which there is what the pages name.

The steps of docs/start.md follow one another; tests/test_docs.py takes them.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import pyarrow
import pytest
import torch
from hub.faults import talking_to
from hub.loopback import Hub
from pyarrow import parquet
from transformers import AutoModelForCausalLM, Ernie4_5Config, PreTrainedTokenizerFast

from optimum_flab.export.quantiser import find_quantiser
from optimum_flab.settings.recipes import read_recipe

from .conftest import PROSE, TEXTS, Result, byte_level_tokenizer, flab, tiny_model
from .docs_commands import FLAB, ROOT, VERBS, Command, block_of, flab_arguments
from .families import zoo
from .recovery.conftest import alpaca, problems, write_lines


VOCABULARY = 640
SPECIAL = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"]
CHAT = (
    "{% for message in messages %}<|pad|>{{ message['role'] }}\n{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|pad|>assistant\n{% endif %}"
)
# what stands in a command, and what stands there instead, where a tiny model or no network is the reason
REPLACED = {
    "Qwen/Qwen2.5-Coder-0.5B-Instruct": "./my-model",
    "flab-demo": "./my-model",
    "trim model-q4_k_m.gguf out": "trim model.gguf trimmed",
    "model-q8_0.gguf": "model.gguf",
    "org/dataset:train[content]": "rows.jsonl[content]",
    "--vocab-size 32768": "--vocab-size 512",
    "--target-size 300MB": "--target-size 400KB",
    "--target-size 235MB": "--target-size 400KB",
    "--num-hidden-layers 22": "--num-hidden-layers 3",
    "--intermediate-size 4096": "--intermediate-size 256",
    "--intermediate-size 1536": "--intermediate-size 256",
    "--num-experts 64 --intermediate-size 512": "--num-experts 4 --intermediate-size 32",
    "--target-ratio 0.3 --align 2": "--target-ratio 0.227 --align 2",  # that of one layer: other steps are large
    "OMP_NUM_THREADS=8": "OMP_NUM_THREADS=1",
    "codeharmony.jsonl": "problems.jsonl",
    "--tasks standard": "--tasks standard --data humaneval=problems.jsonl --data humaneval_instruct=problems.jsonl"
    " --data humaneval_infilling=problems.jsonl --data cruxeval_output=outputs.jsonl",
}
# what is added to a command of a verb, so that it takes seconds
LITTLE = {
    "prune": "--calibration-tokens 256 --validation-tokens 64 --held-out-tokens 64 --sequence-length 32"
    " --search-tokens 64 --keep-merges 0 --mix own=1 --ffn-multiple-of 4",
    "trim": "--corpus ./src --held-out-tokens 64 --keep-merges 0",
    "recover": "--text ./src --text-tokens 256 --sequence-length 96 --max-steps 2 --evaluations 1 --rank 4"
    " --max-new-tokens 8 --held-out-tokens 128",
    "eval": "--limit 2 --max-new-tokens 8",
    "chat": "--max-new-tokens 8",
    "bench": "--prompt-tokens 8 --new-tokens 4 --batch-size 2 --repeats 2 --energy-seconds 0.2",
}
TEXT = " --corpus ./src --calibration ./src"  # for a pruning whose settings file names none
NO_MODEL = ("--list-tasks", "--check-references")
# commands that are to fail, as their page says, and what they say then
REFUSED = {"inspect -m MODEL": '"like": "llama"'}
MODEL_FILES = (
    *("config.json", "model.safetensors", "tokenizer.json", "README.md"),
    *("flab_plan.json", "flab_report.json", "flab_report.html"),
)
TRIM_FILES = ("flab_plan.json", "flab_trim.json", "README.md")
# the argument that says where a verb writes to, and what is there afterwards
WRITTEN = {
    "trim": ("output", TRIM_FILES),
    "prune": ("output", (*MODEL_FILES, "flab_config.json")),
    "apply": ("output", MODEL_FILES),
    "recover": ("output", MODEL_FILES),
    "eval": ("output", ("flab_evaluation.json",)),
    "bench": ("output", ("flab_efficiency.json",)),
    "count": ("output", ()),
    "export": ("path", ()),
}


# --- what the pages name


def tokenizer_with_gaps() -> PreTrainedTokenizerFast:
    tokenizer = byte_level_tokenizer(600)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.chat_template = CHAT
    return tokenizer


def write_models(folder: Path) -> None:
    """`my-model`, `my-7b`, `DENSE`, `my-mixture`, and `MODEL`, whose family is not known."""
    tokenizer = tokenizer_with_gaps()
    ids = {"vocab_size": VOCABULARY, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    dense = tiny_model("qwen2", **{**ids, "intermediate_size": 512, "initializer_range": 0.1})
    new = Ernie4_5Config(**{**zoo.BASE, **ids, "bos_token_id": None, "initializer_range": 0.3})
    torch.manual_seed(0)
    models = {
        "my-model": dense,
        "my-7b": dense,
        "DENSE": dense,
        "my-mixture": zoo.member("qwen3_moe", **ids),
        "MODEL": AutoModelForCausalLM.from_config(new),
    }
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        (folder / name / "README.md").write_text("---\nlicense: apache-2.0\n---\nA tiny model.\n", encoding="utf-8")


def write_texts(folder: Path) -> None:
    """Text of every kind that a flag may name, and what is counted beforehand."""
    for name, suffix in (("src", "py"), ("docs", "md"), ("other-repository", "py")):
        (folder / name).mkdir()
        for number, text in enumerate(PROSE if name == "docs" else TEXTS):
            (folder / name / f"{number}.{suffix}").write_text(f"{text}\n" * 2, encoding="utf-8")
    write_lines(folder / "rows.jsonl", [{"content": text} for text in TEXTS])
    write_lines(folder / "tasks.jsonl", [{"prompt": text[:40], "answer": text[40:]} for text in TEXTS])
    write_lines(folder / "problems.jsonl", problems())
    write_lines(folder / "outputs.jsonl", [{"code": "def f(x):\n    return x", "input": "1", "output": "1"}] * 2)
    (folder / "alpaca.json").write_text(json.dumps(alpaca()), encoding="utf-8")
    (folder / "data").mkdir()
    for number in range(2):
        parquet.write_table(pyarrow.table({"text": TEXTS[number::2]}), folder / "data" / f"{number}.parquet")


def write_settings(folder: Path) -> None:
    """What the pages have a reader write, and a `laptop` that trains for two steps."""
    (folder / "my-settings.yaml").write_text(block_of("pruning", "yaml"), encoding="utf-8")
    (folder / "ernie4_5.json").write_text(block_of("families", "json"), encoding="utf-8")
    (folder / "my-tasks").mkdir()
    for language, suffix in (("json", "jsonl"), ("yaml", "yaml")):
        text = block_of("adding_a_task", language)
        (folder / "my-tasks" / f"word_problems.{suffix}").write_text(text, encoding="utf-8")
    (folder / "my-tasks" / "next_word.yaml").write_text(block_of("adding_a_task", "yaml", 1), encoding="utf-8")
    rows = [{"question": "The capital of France is", "answer": " Paris"}]
    write_lines(folder / "my-tasks" / "next_word.jsonl", rows)
    (folder / "mine.yaml").write_text(read_recipe("every-verb"), encoding="utf-8")
    little = {"# text_tokens: 65536": "text_tokens: 256", "sequence_length: 512": "sequence_length: 96"}
    little |= {"batch_size: 8 ": "max_steps: 2\n  max_new_tokens: 8\n  batch_size: 8 "}
    (folder / "laptop").write_text(replaced(read_recipe("laptop"), little), encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with what the pages name, results of earlier commands among them."""
    folder = tmp_path_factory.mktemp("pages")
    write_models(folder)
    write_texts(folder)
    write_settings(folder)
    earlier = [
        "count ./src -m my-model -o counts.npz",
        "count ./docs -m my-model -o more.npz",
        "export my-model model.gguf",
        f"trim model.gguf trimmed {LITTLE['trim']}",
        f"prune -m my-model out/ --target-ratio 0.3 {LITTLE['prune']} {TEXT}",
        "eval -m out/ --baseline ./my-model --tasks perplexity --data perplexity=./src --limit 2 -o results/",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for text in earlier:
            ended = flab(*shlex.split(text))
            assert ended.code == 0, ended.err
    shutil.copytree(folder / "out", folder / "other")
    (folder / "out" / "notes").mkdir()
    (folder / "out" / "notes" / "first.md").write_text("A note.\n", encoding="utf-8")
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy for one command, which runs in it."""
    copy = shutil.copytree(made, tmp_path / "pages")
    monkeypatch.chdir(copy)
    monkeypatch.setattr(sys, "stdin", io.StringIO("def add(a, b):\n"))  # what is said to `flab chat`
    yield copy
    shutil.rmtree(copy)


# --- what is run


def replaced(text: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        text = text.replace(old, new)
    return text


def runnable(command: Command) -> list[str]:
    """The words of a command, as they are run here."""
    verb, text = command.arguments[0], replaced(shlex.join(command.words), REPLACED)
    if command.page == "vocabulary":  # whose MODEL may be any
        text = text.replace(" MODEL ", " ./my-model ")
    if not any(flag in command.words for flag in NO_MODEL):
        text += f" {LITTLE.get(verb, '')}"
    if verb == "prune" and "my-settings.yaml" not in text:
        text += TEXT
    return [part for word in shlex.split(text) for part in (sorted(glob(word)) if "*" in word else ()) or [word]]


def once(commands: list[Command]) -> list[Command]:
    """Each command once, where it stands for the last time, which is often the README."""
    found: dict[str, Command] = {}
    for command in commands:
        found.pop(text := shlex.join(command.words), None)
        found[text] = command
    return [command for command in found.values() if command.page != "start"]


COMMANDS = once(FLAB)
PUSHES, OTHERS = (
    [pytest.param(command, id=str(command)) for command in COMMANDS if (command.arguments[0] == "push") is pushes]
    for pushes in (True, False)
)


def run_launched(words: list[str]) -> Result:
    """A command of a launcher of processes, with what may stand in front of it for the shell."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(["env", *words], env=environment, capture_output=True, text=True, timeout=600)
    return Result(ended.returncode, ended.stdout, ended.stderr)


def target(verb: str, rest: list[str]) -> Path | None:
    """What a command writes; `None` for one that only prints."""
    try:
        args = vars(VERBS[verb][1].parse_args(rest))
    except SystemExit:  # of a flag that lists something
        return None
    if verb == "card":
        return Path(args["folder"], "README.md")
    name = args[WRITTEN[verb][0]] if verb in WRITTEN else None
    return None if name is None else Path(name)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def check_written(verb: str, path: Path, printed: str) -> None:
    assert path.exists() and path.name in printed
    names = WRITTEN.get(verb, ("", ()))[1]
    for name in TRIM_FILES if (path / TRIM_FILES[1]).exists() else names:  # `apply` takes plans of a trim, too
        assert (path / name).is_file(), name


@pytest.mark.thorough
@pytest.mark.parametrize("command", OTHERS)
def test_a_command_of_the_pages_does_what_it_says(command, folder):
    words = runnable(command)
    verb, *rest = flab_arguments(words)
    if {"q4_k_m", "Q4_K_M"} & {*rest} and find_quantiser() is None:
        pytest.skip("llama.cpp is not installed")
    path = target(verb, rest)
    if path is not None:
        remove(path)
    ended = flab(verb, *rest) if words[0] == "optimum-cli" else run_launched(words)
    if message := REFUSED.get(shlex.join(command.arguments)):
        assert ended.code and message in ended.err
        return
    assert ended.code == 0 and ended.out, ended.err
    if path is not None:
        check_written(verb, path, ended.out)


# --- pushes


@pytest.fixture
def hub(tmp_path) -> Iterator[Hub]:
    with Hub().serving() as hub, talking_to(hub, str(tmp_path)):
        yield hub


@pytest.mark.thorough
@pytest.mark.parametrize("command", PUSHES)
def test_a_push_of_the_pages_sends_what_it_says(command, folder, hub):
    given = vars(VERBS["push"][1].parse_args(command.arguments[1:]))
    name = given["repo_id"]
    if given["push.create_pr"]:
        hub.add(name, {".gitattributes": b""})
    ended = flab(*runnable(command)[2:])
    assert ended.code == 0, ended.err
    if given["push.dry_run"]:
        assert "nothing was sent" in ended.out and not hub.repositories
        return
    sent = hub.files(name, "refs/pr/1" if given["push.create_pr"] else given["push.revision"] or "main")
    assert "model.safetensors" in sent
    assert ("notes/first.md" in sent) == ("notes/*" in command.words)
    assert hub.repositories[name].private == bool(given["push.private"])


# --- the tables


@pytest.mark.parametrize("text", [*REPLACED, *REFUSED])
def test_what_the_tables_name_stands_on_a_page(text):
    assert any(text in shlex.join(command.words) for command in COMMANDS)


def test_every_verb_has_a_command_on_a_page_which_is_run():
    assert {command.arguments[0] for command in COMMANDS} == set(VERBS)
