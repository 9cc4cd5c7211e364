"""What the benchmark scripts share, and the tables that they make of results."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import shlex
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from optimum_flab import FlabOptimizer
from optimum_flab.evaluation.comparison import MEAN, compare, pooled_score
from optimum_flab.export.file_size import SPARE
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.json_files import parse_record
from optimum_flab.records.results import EvaluationRecord
from optimum_flab.records.scores import PASSES
from optimum_flab.records.trim import TrimReport
from optimum_flab.settings.export import ExportSettings
from optimum_flab.settings.trim import TrimSettings
from optimum_flab.trim.run import trim

from .conftest import saved, small_config, tiny_model


ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_a_script_imports_what_there_is(path):
    """Scripts take hours of real models to run, and so no test runs most of them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("optimum_flab"):
            exec(ast.unparse(node), {})


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", BENCHMARKS / "README.md", *(ROOT / "docs").glob("*.md")], ids=str
)
def test_pages_name_scripts_and_flags_that_there_are(page):
    for name, told in re.findall(r"benchmarks/(\w+\.py)([^`\n]*)", page.read_text(encoding="utf-8")):
        source = (BENCHMARKS / name).read_text(encoding="utf-8")
        own, _, _ = told.partition(" -- ")
        assert [flag for flag in re.findall(r"(?<!\S)--[a-z-]+", own) if f'"{flag}"' not in source] == [], name


def test_what_was_made_in_another_way_or_of_other_files_is_not_taken_for_the_same(script, tmp_path, monkeypatch):
    common = script("common")
    source, out = tmp_path / "model", tmp_path / "work" / "out"
    source.mkdir()
    (source / "config.json").write_text("{}")
    writes = f"import pathlib; pathlib.Path({str(out)!r}).write_text('made')"
    monkeypatch.setattr(common, "flab_command", lambda *told: [sys.executable, "-c", writes])
    assert common.made_once(out, [source], "eval", "--limit", 5)
    (source / "flab_evaluation.json").write_text("{}")  # a card takes results along, which change no model
    assert not common.made_once(out, [source], "eval", "--limit", 5)
    with pytest.raises(SystemExit, match="was made in another way"):
        common.made_once(out, [source], "eval")
    (source / "config.json").write_text('{"other": 1}')
    with pytest.raises(SystemExit, match="or of other files"):
        common.made_once(out, [source], "eval", "--limit", 5)


def test_what_fails_ends_the_script_and_is_tried_again(script, tmp_path, monkeypatch):
    common = script("common")
    monkeypatch.setattr(common, "flab_command", lambda *told: [sys.executable, "-c", "raise SystemExit(2)"])
    for _ in range(2):
        with pytest.raises(SystemExit, match="flab bench for .* ended with status 2"):
            common.made_once(tmp_path / "out", [], "bench")


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "x", ""])
def test_a_number_of_things_is_at_least_one(script, text):
    with pytest.raises(argparse.ArgumentTypeError, match="at least 1"):
        script("common").positive(text)


@pytest.mark.parametrize("label", ["../x", "a/b", ""])
def test_a_label_stays_in_its_folder(script, tmp_path, label):
    with pytest.raises(argparse.ArgumentTypeError):
        script("common").labelled(f"{label}={tmp_path}")


def test_labels_are_given_once(script):
    script("common").check_distinct(["a", "b"])
    with pytest.raises(SystemExit, match="a: each label"):
        script("common").check_distinct(["a", "b", "a"])


def value(number, interval=None):
    return {"value": number, "interval_95": interval}


def test_the_tables_of_the_paper_join_rows_by_their_name(script):
    tables = script("paper_tables")
    score = {
        "task": "humaneval",
        "metric": "pass@1",
        "problems": 1640,
        "dense": value(0.5, [0.4, 0.6]),
        "pruned": value(0.25, [0.2, None]),
        "retention": value(0.5, [0.4, 0.625]),
    }
    costs = {
        "a": [
            {"metric": "storage", "unit": "MB", "baseline": 988.0, "model": 642.0, "ratio": 0.65},
            {"metric": "memory on CUDA", "unit": None, "baseline": 4.0, "model": 3.0, "ratio": 0.75},
        ],
        "b": [
            {"metric": "energy", "unit": "J", "baseline": {"median": 8.0}, "model": {"median": 6.0}, "ratio": 0.75},
            {"metric": "storage", "unit": "MB", "baseline": 988.0, "model": 1234.0, "ratio": None},
        ],
    }
    found = {label: {"standard": [score], "cost": cost} for label, cost in costs.items()}
    missing = tables.Row("x", "codeharmony", "pass@1", asked="standard")
    row = tables.Row("HumanEval, pass@1", "humaneval", "pass@1", (76.83, 70.12, 76.22), "standard")
    text = "\n".join(tables.tables([missing, row], found))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line]
    assert cells[2] == [
        "HumanEval, pass@1",
        "1,640",
        "50.0 [40.0, 60.0]",
        *2 * ["25.0 [20.0, –]"],
        *2 * ["50.0% [40.0, 62.5]"],
        "76.8, 70.1 (91%), 76.2 (99%)",
    ]
    assert cells[5:] == [
        ["storage (MB)", "988", "642", "1,234", "0.65 ×", "–"],
        ["memory on CUDA", "4", "3", "–", "0.75 ×", "–"],
        ["energy (J)", "8", "–", "6", "–", "0.75 ×"],
    ]


def test_what_cannot_be_drawn_to_scale_keeps_its_label(script):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    script("compare").bars(axes, ["a", "b", "c", "d"], ["#000"] * 4, [0.5, -7.0, float("inf"), 1e-6])
    assert [text.get_text() for text in axes.texts] == ["0.5", "-7", "inf", "0"]


def test_a_plan_without_refit_keeps_the_same_parts(script, tmp_path):
    import torch

    from optimum_flab import PruningPlan

    ours, sliced = tmp_path / "ours", tmp_path / "sliced"
    ours.mkdir()
    plan = PruningPlan(
        "model", None, "0" * 64, "", 8, {"layer": [0, 1], "neuron": {0: [1, 2], 1: [0, 2]}}, "float32", {}
    )
    replace(plan, weights={"model.layers.0.mlp.down_proj.weight": torch.ones(4, 2)}).save(ours)
    script("compare").plan_without_refit(ours, sliced)
    found = PruningPlan.load(sliced)
    assert (found, dict(found.weights)) == (plan, {})
    assert PruningPlan.load(ours).weights  # ours is as it was


def test_a_file_is_scored_against_the_dense_one_in_pairs(script):
    module = script("bytes_against_passes")
    task = module.task_of("humaneval", 6, "", 1)
    dense = [True, True, True, False, True, False]
    own = module.score("humaneval", task, dense, dense)
    assert (own["passes"], own["of"], own["retention"]) == (4, 6, 1.0)
    fewer = module.score("humaneval", task, [True, False, True, False, False, False], dense)
    assert (fewer["passes"], fewer["retention"]) == (2, 0.5)
    low, high = fewer["retention_95"]
    assert 0 <= low < 0.5 < high <= 1  # it passes nothing that the dense one does not


def test_the_frontier_is_what_no_file_of_that_size_or_less_beats(script):
    found = [(200, 41), (200, 51), (234, 51), (252, 70), (252, 70), (355, 69)]
    rows = [{"megabytes": size, "humaneval": {"passes": passes}} for size, passes in found]
    script("bytes_against_passes").mark_frontier(rows, "humaneval")
    assert [row["humaneval"]["frontier"] for row in rows] == [False, True, False, True, True, False]


@pytest.fixture
def pages(script, monkeypatch, tmp_path):
    """The script, with records that may be changed."""
    module = script("pages")
    monkeypatch.setattr(sys, "argv", ["pages.py", "--check"])
    shutil.copytree(BENCHMARKS / "records", tmp_path / "records")
    monkeypatch.setattr(module, "RECORDS", tmp_path / "records")
    return module


def test_pages_cards_and_what_the_package_knows_are_as_the_records_say(pages, capsys):
    assert pages.main() == 0, capsys.readouterr().err


def test_what_a_record_changes_is_named(pages, capsys):
    def change(path, pattern, text):
        path.write_text(re.sub(pattern, text, path.read_text(encoding="utf-8")), encoding="utf-8")

    change(next(pages.RECORDS.glob("sizes-*.json")), r'"vocab_size": \d+', '"vocab_size": 12345')
    report = pages.RECORDS / "models" / "0.5b-0.35" / "flab_report.json"
    change(report, r'"divergence": 0\.\d+', '"divergence": 0.123')
    assert pages.main() == 1
    assert {line.partition(" ")[0] for line in capsys.readouterr().err.splitlines()} == {
        "budgets.png",
        "docs/results.md",
        "model_cards/qwen2.5-coder-0.5b-0.35/README.md",
        "optimum_flab/records/known_programs.json",
    }
    assert "12,345 tokens" in pages.made("<!-- table: budgets -->\nold\n<!-- end -->")


def test_a_figure_in_prose_is_in_a_table_of_its_page_or_has_a_source(pages):
    tables = "<!-- table: budgets -->\n| 12 MB |\n<!-- end -->\n| 3% |\n"
    prose = "At 12 MB, of 13 MB; 3% to 4.5%; 5 of 1,000 in 7 min, `8 MB` by default, layer 9.\n```\n10 s\n```\n"
    assert pages.without_record("docs/any.md", tables + prose) == ["3%", "13 MB", "3%", "4.5%", "5 of 1,000", "7 min"]
    quoted = json.loads((pages.RECORDS / "quoted.json").read_text(encoding="utf-8"))
    for page, figures in quoted.items():
        found = pages.figures((ROOT / page).read_text(encoding="utf-8"))
        assert [figure for figure in figures if figure not in found] == [], page


MODELS = sorted((BENCHMARKS / "records" / "models").iterdir())


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_a_record_of_a_model_is_whole(folder):
    about = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    assert re.fullmatch(r"[0-9a-f]{8}", about["commit"]) and about["machine"]["processor"]
    for path in folder.rglob("*.json"):
        assert not re.search(r"/(home|root|tmp|work)/", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_scores_follow_from_the_problems_that_a_record_says_were_passed(script, folder):
    """With their intervals; of the model itself, each task once."""
    pages, keep = script("pages"), script("keep")
    found = {}
    for path in folder.rglob("flab_evaluation.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert keep.is_of(content, folder)
        record = parse_record(EvaluationRecord, content, path)
        assert not found.keys() & record.outcomes.keys()
        found |= {task: pages.passed(task, outcome) for task, outcome in record.outcomes.items()}
        for row in record.scores:
            if row.of is not None:
                assert row == pooled_score(row.task, [found[task] for task in row.of])
            elif row.metric == PASSES:
                dense, pruned = map(MEAN.rows, found[row.task].models)
                clusters = None if row.clusters is None else found[row.task].problems
                assert row == compare(row, MEAN, pruned, dense, clusters=clusters)
    programs = {task.removesuffix("_instruct") for task in found} - {pages.LINES}
    assert programs in (set(), {"humaneval", "codeharmony"})  # which are the problems that pages pool


def test_the_output_that_pages_begin_with_is_that_of_its_record():
    path = BENCHMARKS / "records" / "models" / "0.5b-trimmed" / "flab_trim.json"
    printed, _, _ = TrimReport.parse(json.loads(path.read_text(encoding="utf-8")), path).to_text().partition("\n")
    for page in (ROOT / "README.md", ROOT / "docs" / "trim.md"):
        assert f"\n{printed}\n" in page.read_text(encoding="utf-8")


def test_what_is_recommended_is_what_was_measured(script):
    """A command that readers are told made the model of its row, in the shape that `flab inspect` expects of it."""
    pages = script("pages")
    expected = 0
    for label, name in pages.TAKE.items():
        folder = pages.RECORDS / "models" / name
        command = re.search(r"`flab (prune|trim)([^`]*)`", label)
        path = folder / ("flab_trim.json" if command[1] == "trim" else "flab_report.json")
        report = json.loads(path.read_text(encoding="utf-8"))
        words = shlex.split(report["command"])
        assert words[2] == command[1]
        assert sorted(words[3:]) == sorted([*words[3:6], *shlex.split(command[2])])
        shape = json.loads((folder / "record.json").read_text(encoding="utf-8")).get("expected")
        if shape is not None:
            expected += 1
            found = {field: report["pruned"][field] for field in shape}
            tokens = found.pop("vocab_size")  # some more or less: the estimate has no file to look at
            assert tokens == pytest.approx(shape.pop("vocab_size"), rel=1e-3) and found == shape, name
    assert expected


KEPT = Path(__file__).with_name("records") / "models" / "searched"


@pytest.fixture
def keep(script, monkeypatch, tmp_path):
    """The script: keeps a model as `mine`, with the results of folders."""
    module = script("keep")
    monkeypatch.setattr(module, "MODELS", tmp_path)

    def run(*results, model=KEPT):
        told = ["keep.py", "mine", model, "--results", *results, "--commit", "0" * 8]
        monkeypatch.setattr(sys, "argv", [*map(str, told)])
        module.main()

    run.without_folders = module.without_folders
    return run


def test_a_model_is_kept_with_its_results_and_without_paths(keep, tmp_path):
    for _ in range(2):
        keep(KEPT)
    kept = Checkpoint(tmp_path / "mine")
    assert kept.report == Checkpoint(KEPT).report and kept.plan.kept.keys() == {"layer"}
    assert (tmp_path / "mine" / "flab_evaluation.json").is_file()
    told = {"a": ["/b/c.json", "d/e"], "f": "--data g=/h/i.jsonl https://j.co/k/l"}
    assert keep.without_folders(told) == {"a": ["c.json", "d/e"], "f": "--data g=i.jsonl https://j.co/k/l"}


def test_what_is_not_of_a_model_is_not_kept_with_it(keep, tmp_path):
    keep(KEPT)
    before = sorted(tmp_path.rglob("mine/*"))
    with pytest.raises(SystemExit, match="given once"):
        keep(KEPT, tmp_path / KEPT.name)
    other = shutil.copytree(KEPT, tmp_path / "other")
    evaluation = other / "flab_evaluation.json"
    weights = Checkpoint(KEPT).report.weights_sha256
    evaluation.write_text(evaluation.read_text(encoding="utf-8").replace(weights, "0" * 64), encoding="utf-8")
    with pytest.raises(SystemExit, match="is of another model than"):
        keep(KEPT, other)
    for path in other.glob("flab_*"):
        path.unlink()
    with pytest.raises(SystemExit, match="other holds no results"):
        keep(KEPT, other)
    with pytest.raises(SystemExit, match="neither a pruned nor a trimmed model"):
        keep(KEPT, model=other)
    assert sorted(tmp_path.rglob("mine/*")) == before


def test_a_record_says_how_it_was_made_without_places_of_this_machine(script, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["/somewhere/sizes.py", "--dense", "/models/a model", "a=/models/b", "--sizes", "80MB"]
    )
    script("common").print_result("a figure", rows=[])
    record = json.loads(capsys.readouterr().out)
    assert record["command"] == "python benchmarks/sizes.py --dense 'a model' a=b --sizes 80MB"
    assert not (ROOT / ".git").exists() or record["commit"]


@pytest.fixture
def by_configuration(script, tmp_path, monkeypatch, capsys):
    """The rows of `computed_sizes.py` on one listed model, whose tokens are those of a checkpoint in `model`."""
    module = script("computed_sizes")
    folder = saved(tiny_model("qwen2", 600), tmp_path / "model")
    data = small_config(tmp_path).data
    settings = TrimSettings(data=data, vocabulary={"keep_merges": 0})
    monkeypatch.setattr(module, "TrimSettings", lambda: settings)
    monkeypatch.setattr(module, "LISTED", tmp_path / "listed.yaml")
    monkeypatch.setattr(sys, "argv", ["computed_sizes.py", "--tokenizer", f"tiny={folder}"])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))

    def rows(**fields):
        listed = {"Tiny": {"tokenizer": "tiny", "config": config, **fields}, "Other": {"tokenizer": "other"}}
        module.LISTED.write_text(yaml.safe_dump(listed), encoding="utf-8")
        module.main()
        return json.loads(capsys.readouterr().out)["rows"]

    rows.settings = settings
    return rows


def test_sizes_by_configuration_are_those_of_files_that_are_written(by_configuration, tmp_path):
    dense, parameters = tmp_path / "dense.gguf", tiny_model("qwen2", 600).num_parameters()
    FlabOptimizer.from_pretrained(tmp_path / "model").export_gguf(dense, ExportSettings(type="q8_0"))
    report = trim(dense, tmp_path / "out", by_configuration.settings)
    (row,) = by_configuration(parameters=parameters, published=10**6)
    file = row["files"]["q8_0"]
    assert (row["tokens"], row["kept"]) == (report.tokens_before, report.tokens_after)
    # a little is assumed for what a file says of itself
    assert 0 <= file["dense"] - report.bytes_before < SPARE + 512
    assert 0 <= file["trimmed"] - report.bytes_after < SPARE + 512
    assert file["saved"] == 1 - file["trimmed"] / file["dense"]
    assert row["above_published"] == row["files"]["q4_k_m"]["dense"] / 10**6 - 1


def test_a_configuration_of_another_model_is_refused(by_configuration):
    with pytest.raises(SystemExit, match=r"Tiny has \d+,\d+ parameters, and 1,000 are published"):
        by_configuration(parameters=1000)
