"""What the pages say can be done: commands and settings are known, links lead somewhere, the worked examples work."""

from __future__ import annotations

import ast
import doctest
import html
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import torch
import yaml
from hub.faults import talking_to
from hub.loopback import Hub
from transformers import CONFIG_MAPPING

from optimum_flab import criteria
from optimum_flab.checkpoints.self_check import check_family
from optimum_flab.criteria.statistics import NeuronStatistics
from optimum_flab.families.files import read_family
from optimum_flab.pruning.components.layers import ranked_layers
from optimum_flab.settings.files import Settings, read_settings_file

from .conftest import flab, random_tokens, reading, tiny_model, write_project
from .docs_commands import (
    BLOCKS,
    DOCS,
    FENCE,
    FLAB,
    PAGES,
    ROOT,
    VERBS,
    block_of,
    commands,
    flab_arguments,
    hooks,
)
from .families import zoo


# flags of other programs that the pages name
FOREIGN = set(
    "--nproc_per_node --num_processes --thorough --task --model --onnx --tensor-parallel-size"
    " --context --layers --work --measure --no-deps --imatrix --nnodes --rdzv_backend --rdzv_endpoint".split()
)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


# --- commands and settings


@pytest.mark.parametrize("command", FLAB, ids=str)
def test_every_command_parses(command, capsys):
    verb, *rest = command.arguments
    assert verb in VERBS
    try:
        VERBS[verb][1].parse_args(rest)
    except SystemExit as end:  # one that only lists something ends well
        assert not end.code, capsys.readouterr().err


def test_a_command_with_a_fault_is_found(capsys):
    (words,) = commands("optimum-cli flab prune -m model out/ \\\n   --target-ration 0.3  # a slip\n")
    with pytest.raises(SystemExit):
        VERBS["prune"][1].parse_args(flab_arguments(words)[1:])
    assert "unrecognized arguments: --target-ration;" in capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_verbs_and_flags_that_a_text_names_exist(page):
    known = {
        flag for _, parser in VERBS.values() for action in hooks.actions_of(parser) for flag in action.option_strings
    }
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for span in INLINE.findall(text):
        if match := re.match(r"(?:optimum-cli )?flab ([a-z]\w*)", span):
            assert match[1] in VERBS, span
        assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", span)) <= known | FOREIGN, span


@pytest.mark.parametrize(
    "words",
    [words for block in BLOCKS if block.language in ("", "shell") for words in commands(block.text)],
    ids=lambda words: " ".join(words)[:50],
)
def test_scripts_and_make_targets_exist(words):
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for word in words:
        if re.match(r"(examples|benchmarks|tests)/", word):
            assert (ROOT / word).exists(), word


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "yaml"], ids=lambda b: b.page.stem)
def test_settings_are_valid(block, tmp_path):
    if block.text.startswith("task:"):
        pytest.skip("a task and not settings")
    path = tmp_path / "settings.yaml"
    path.write_text(block.text, encoding="utf-8")
    Settings(**read_settings_file(path))  # knows every name


# --- Python


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "python"], ids=lambda b: b.page.stem)
def test_python_is_valid_and_imports_what_there_is(block):
    if ">>>" in block.text:
        test = doctest.DocTestParser().get_doctest(block.text, {}, block.page.name, None, None)
        assert not doctest.DocTestRunner(verbose=False).run(test).failed
        return
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("optimum_flab"):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def criterion_of_the_page(number: int, folder: ModuleType) -> Any:
    scope: dict = {"__package__": folder.__name__}
    exec(block_of("criteria", "python", number), scope)
    criterion = scope["CRITERION"]
    for text in (criterion.summary, criterion.formula, criterion.source):
        assert text.isascii() and not text.endswith(".")
    return criterion


def test_the_criterion_of_the_worked_example_is_described_and_computed():
    criterion = criterion_of_the_page(0, criteria.neurons)
    weight = torch.tensor([[1.0, 0.0, 3.0, 2.0], [0.0, 0.5, 0.0, 2.0]])
    kept = criterion.select(NeuronStatistics(weight, [weight.T]), [3, 2], torch.Generator())
    assert {width: ids.tolist() for width, ids in kept.items()} == {3: [0, 2, 3], 2: [2, 3]}


def test_the_criterion_that_reads_activations_does():
    criterion = criterion_of_the_page(1, criteria.neurons)
    statistics = NeuronStatistics(torch.ones(2, 3), [])
    activations = torch.tensor([[1.0, -5.0, 2.0], [-1.0, 5.0, 9.0]])
    statistics.add(activations, torch.zeros(2, 2), torch.tensor([1.0, 0.1]), torch.tensor([0, 1]))
    assert criterion.select(statistics, [1], torch.Generator())[1].tolist() == [1]  # 1.1, 27.5, 12.1


def test_the_criterion_for_layers_ranks_them():
    criterion, model = criterion_of_the_page(2, criteria.layers), tiny_model("qwen2")
    tokens = random_tokens(documents=8)
    removals = list(ranked_layers(reading(model, tokens), criterion))
    scores = [removal.score for removal in removals]
    assert len(scores) == model.config.num_hidden_layers - 1 and 0 < scores[0] and scores == sorted(scores)


def test_the_family_of_the_worked_example_is_as_described(tmp_path, monkeypatch):
    path = tmp_path / "family.json"
    path.write_text(block_of("families", "json"), encoding="utf-8")
    family = read_family(path)
    assert family.model_type in CONFIG_MAPPING
    monkeypatch.setitem(zoo.EVERY, family.model_type, [{"use_bias": True}])
    check_family(zoo.member(family.model_type), family)


# --- schemas


@pytest.mark.parametrize("name", hooks.schemas())
def test_a_schema_is_current_and_files_are_as_it_says(name):
    schema = json.loads((DOCS / "schema" / name).read_text(encoding="utf-8"))
    assert schema == json.loads(hooks.schemas()[name]), "out of date: `make schemas`"
    files = sorted(ROOT.glob(f"tests/records/models/*/{name.removesuffix('.schema.json')}.json"))
    for file in files:
        jsonschema.validate(json.loads(file.read_text(encoding="utf-8")), schema)
    with pytest.raises(jsonschema.ValidationError, match="required property"):
        jsonschema.validate({}, schema)
    assert len(files) > 1


# --- links and navigation


def slug(heading: str) -> str:
    """The anchor of a heading, on the site and on GitHub."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_leads_somewhere(page):
    for target in hooks.LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_table_has_a_head_and_rows_of_as_many_cells(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for table in re.findall(r"(?:^\|.*\n?)+", text, re.M):
        _, line, *rows = table.splitlines()
        assert re.fullmatch(r"(\| *:?-+:? *)+\|", line) and rows, table
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table


def leaves(entries: list | str | dict) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
    else:
        for entry in entries.values() if isinstance(entries, dict) else entries:
            yield from leaves(entry)


def test_every_page_is_in_the_navigation_once():
    nav = sorted(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert nav == sorted([*(page.name for page in DOCS.glob("*.md")), *hooks.PAGES.values()])


def test_every_file_of_markdown_that_a_page_links_to_is_a_page():
    assert [path for path in hooks.linked_files() if path.suffix == ".md"] == []


# --- what the package says


def texts_of_the_package() -> set[str]:
    """Every text in the code, with a NUL in place of what is filled in."""
    found = set()
    for path in sorted((ROOT / "optimum_flab").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_messages_that_troubleshooting_quotes_are_in_the_code():
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = [span for row in re.findall(r"^\| (`.+?) \|", text, re.M) for span in INLINE.findall(row)]
    assert quoted
    everything = "\n".join(texts_of_the_package()).replace("`", "")
    parts = [(span, part.strip(" :()")) for span in quoted for part in span.split("…")]
    assert [(span, part) for span, part in parts if part and part not in everything] == []


# --- the command line in the reference


def test_the_reference_has_every_flag_and_setting_of_every_verb():
    text = html.unescape(hooks.command_line()).replace("\\", "")
    for name, (_, parser) in VERBS.items():
        section = text.partition(f"## flab {name}\n")[2].partition("\n## flab ")[0]
        for action in hooks.actions_of(parser):
            if action.dest != "help":
                assert f"- `{', '.join(action.option_strings) or action.metavar or action.dest}" in section, (
                    action.dest
                )
    assert "(setting `data.corpus`)" in text and "%(" not in text


# --- the site


@pytest.mark.thorough
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(https?:[^\"\s>]+)", page.read_text()
        )
        assert loaded == [], page
    api = (tmp_path / "reference.html").read_text(encoding="utf-8")
    assert [name for _, name in hooks.public_names() if f'id="{name}"' not in api] == []
    assert "--target-ratio" in (tmp_path / "cli.html").read_text(encoding="utf-8")


# --- the first ten minutes


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A folder like the one that the page begins in, with a tiny model in place of the demo."""
    folder = tmp_path_factory.mktemp("start")
    write_project(folder, "tiny", "optimum_flab")
    return folder


STEPS = [command.arguments for command in FLAB if command.page == "start"]


@pytest.fixture(scope="module")
def started(project, tmp_path_factory) -> Iterator[tuple[Path, Hub]]:
    """The folder after all steps of the page but the last, and the hub that was asked."""
    assert [verb for verb, *_ in STEPS] == ["trim", "inspect", "prune", "eval", "export", "card", "push"]
    with Hub().serving() as hub, talking_to(hub, str(tmp_path_factory.mktemp("cache"))):
        for step in STEPS[:-1]:
            words = ["tiny" if word == "flab-demo" else word for word in step]
            ended = flab(*words, *(["-c", "small.yaml"] if words[0] in ("trim", "prune") else []), cwd=project)
            assert ended.code == 0, ended.err
        yield project, hub


def test_the_first_ten_minutes(started):
    folder, _ = started
    report = json.loads((folder / "demo-out" / "flab_report.json").read_text(encoding="utf-8"))
    assert report["removed_ratio"] == pytest.approx(0.6, abs=0.02)
    assert (folder / "demo.gguf").is_file() and (folder / "demo-trimmed" / "flab_trim.json").is_file()
    card = (folder / "demo-out" / "README.md").read_text(encoding="utf-8")
    assert "license: gemma" in card and "divergence" in card


def test_the_dry_run_at_the_end_of_the_first_ten_minutes_sends_nothing(started):
    folder, hub = started
    ended = flab(*STEPS[-1], cwd=folder)
    assert ended.code == 0 and "nothing was sent" in ended.out and not hub.repositories, ended.err


@pytest.mark.thorough
def test_the_references_of_the_worked_task_pass(tmp_path):
    folder = tmp_path / "my-tasks"
    folder.mkdir()
    verb, *rest = flab_arguments(list(commands(block_of("adding_a_task", "shell")))[1])
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "flab", verb, *rest]
    before = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert before.returncode == 2 and "word_problems" in before.stderr
    (folder / "word_problems.jsonl").write_text(block_of("adding_a_task", "json"), encoding="utf-8")
    (folder / "word_problems.yaml").write_text(block_of("adding_a_task", "yaml"), encoding="utf-8")
    after = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert after.returncode == 0, after.stderr
