"""What is refused before anything is imported that takes long."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import byte_level_tokenizer, tiny_model

from optimum_flab import EvaluationSettings
from optimum_flab.checkpoints.loading import load_dense
from optimum_flab.evaluation.catalog import Definition, shipped_tasks
from optimum_flab.evaluation.first_checks import TASKS_FOLDER, check_request, shipped_definition
from optimum_flab.export import export_gguf
from optimum_flab.settings.export import ExportSettings
from optimum_flab.utils.compat import read_task_file
from optimum_flab.utils.errors import FlabError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """`llama` and `qwen2`, each also as a GGUF file, without chat templates; the beginning of one; and a text."""
    folder = tmp_path_factory.mktemp("first")
    for name, size in (("llama", 600), ("qwen2", 500)):
        tiny_model(name, size, hidden_size=64).save_pretrained(folder / name)
        tokenizer = byte_level_tokenizer(size)
        tokenizer.chat_template = None
        tokenizer.save_pretrained(folder / name)
        export_gguf(load_dense(folder / name), folder / f"{name}.gguf", ExportSettings(type="f32"))
    (folder / "short.gguf").write_bytes((folder / "llama.gguf").read_bytes()[:-5000])
    (folder / "noise.gguf").write_bytes(bytes(range(256)))
    (folder / "text.txt").write_text("def f(x): return x", encoding="utf-8")
    return folder


DIVERGENCE = {"tasks": "divergence", "data": {"divergence": "text.txt"}}
REFUSED = [
    ("llama.gguf", None, {}, "no task is named"),
    ("llama.gguf", None, DIVERGENCE, "name the dense one as `baseline`"),
    ("llama.gguf", "llama", {"tasks": "divergence"}, "name a source in `data`"),
    ("llama.gguf", "llama", {"tasks": "divergence", "data": {"divergence": "no.txt"}}, "'no.txt' does not exist"),
    ("llama.gguf", "qwen2", DIVERGENCE, "is a llama or mistral model, and .*qwen2' a qwen2 one"),
    ("llama.gguf", "qwen2.gguf", DIVERGENCE, "is a llama or mistral model, and .* a qwen2 one"),
    ("none.gguf", None, {"tasks": "cruxeval_output"}, "none.gguf' does not exist"),
    ("llama.gguf", "none", {"tasks": "cruxeval_output"}, "none' does not exist"),
    ("short.gguf", None, {"tasks": "cruxeval_output"}, "short.gguf' is damaged or truncated"),
    ("noise.gguf", None, {"tasks": "cruxeval_output"}, "noise.gguf' is not a GGUF file"),
    ("llama.gguf", None, {"tasks": "humaneval"}, "task 'humaneval' runs code .* `confirm_run_unsafe_code`"),
    ("llama.gguf", None, {"tasks": "standard"}, "task 'standard' runs code"),
    (
        "llama.gguf",
        None,
        {"tasks": "cruxeval_output", "data": {"cruxeval_output": "no.jsonl"}},
        "'no.jsonl' cannot",
    ),
    ("llama.gguf", None, {"tasks": "humanevall"}, "unknown task 'humanevall'; did you mean humaneval"),
]


def checked(folder: Path, model: str, baseline: str | None, settings: dict, confirm: bool = False) -> None:
    names = {"model": (folder / model, None)}
    if baseline is not None:
        names = {"dense": (folder / baseline, None), "pruned": (folder / model, None)}
    check_request(EvaluationSettings(**settings), names, confirm)


@pytest.mark.parametrize(("model", "baseline", "settings", "message"), REFUSED)
def test_a_request_is_refused(folder, monkeypatch, model, baseline, settings, message):
    monkeypatch.chdir(folder)
    with pytest.raises(FlabError, match=message):
        checked(folder, model, baseline, settings)


@pytest.mark.parametrize("model", ["llama", "llama.gguf"])
def test_a_chat_template_is_looked_for_in_the_files(folder, model):
    settings = {"tasks": "humaneval_instruct"}
    with pytest.raises(FlabError, match="needs a chat template, .*use the task 'humaneval'"):
        checked(folder, model, None, settings, confirm=True)
    checked(folder, model, None, {"tasks": "humaneval"}, confirm=True)
    if model == "llama":
        for name in ("chat_template.jinja", "chat_template.json"):
            content = '{"chat_template": "{{ 1 }}"}'
            (folder / model / name).write_text(content, encoding="utf-8")
            checked(folder, model, None, settings, confirm=True)
            (folder / model / name).unlink()


def test_what_can_be_done_is_not_refused(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    checked(folder, "llama.gguf", "llama", DIVERGENCE)
    checked(folder, "qwen2", "qwen2.gguf", DIVERGENCE)
    checked(folder, "llama.gguf", "qwen2", {"tasks": "gsm8k"})  # of lm-eval
    check_request(EvaluationSettings(tasks="cruxeval_output"), {"model": ("org/model", None)}, False)  # not looked for
    checked(folder, "llama", None, {"tasks": "mine", "include_path": str(tmp_path)})


def test_the_definitions_say_what_lm_eval_reads_in_them():
    for name in shipped_tasks().keys() - {"divergence", "standard"}:
        read, text = Definition(name, read_task_file(TASKS_FOLDER / f"{name}.yaml"), None), shipped_definition(name)
        assert bool(read.config.get("unsafe_code")) == ("unsafe_code: true" in text), name
        assert bool(read.metadata.get("chat_template")) == ("  chat_template: true" in text), name
    assert shipped_definition("_code") is None and shipped_definition("../tasks/humaneval") is None


def test_a_request_is_refused_without_the_libraries_that_take_long_to_import(folder):
    code = (
        "import sys\n"
        "from optimum_flab.evaluation.first_checks import check_request\n"
        "from optimum_flab import EvaluationSettings\n"
        "settings = EvaluationSettings(tasks='divergence', data={'divergence': 'text.txt'})\n"
        "try:\n"
        "    check_request(settings, {'dense': ('qwen2', None), 'pruned': ('llama.gguf', None)}, False)\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, sorted({'lm_eval', 'transformers', 'datasets'} & sys.modules.keys()))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert ended.stdout == "FlabError []\n", ended.stderr
