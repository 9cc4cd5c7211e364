"""Several models in one table: what their folders say, and a dash for what they do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ..conftest import flab


MODELS = Path(__file__).with_name("models")


@pytest.fixture
def folders(tmp_path) -> Path:
    """`searched` with its evaluation in a folder of its own, `recovered` with its own in it, `applied` with none, and
    an evaluation of a model that is not there."""
    for name in ("searched", "recovered", "applied"):
        shutil.copytree(MODELS / name, tmp_path / name)
    (tmp_path / "results").mkdir()
    evaluation = Path(shutil.move(tmp_path / "searched" / "flab_evaluation.json", tmp_path / "results"))
    (tmp_path / "other").mkdir()
    content = json.loads(evaluation.read_text(encoding="utf-8"))
    content["models"]["pruned"]["weights_sha256"] = "of another"
    (tmp_path / "other" / evaluation.name).write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def table(text: str) -> dict[str, list[str]]:
    """The cells of a table in Markdown by the first of their row."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {first: rest for first, *rest in rows}


def test_a_table_has_a_column_for_each_model_and_dashes_for_what_is_not_known(folders):
    ended = flab("compare", "results", "searched", "recovered", "applied", "other", cwd=folders)
    rows = table(ended.out)
    assert rows[""] == ["searched", "recovered", "applied", "other"]
    assert rows["parameters"] == ["34,112", "34,112", "36,128", "-"]
    assert rows["recovered"] == ["no", "on 1,416 tokens", "no", "-"]
    assert rows["divergence, all text"] == ["0.0217", "0.0587", "-", "-"]
    assert rows["humaneval, pass@1 (164 problems)"] == ["39.0% [31.0%, 47.0%]"] * 2 + ["-", "39.0% [31.0%, 47.0%]"]
    # only against the model that it was pruned from
    kept = "97.5% [90.0%, 110.0%]"
    assert rows["humaneval, pass@1 (164 problems): against the dense model"] == [kept, kept, "-", "-"]
    assert "held-out texts differ" in ended.out
    assert "held-out texts differ" not in flab("compare", "searched", "applied", cwd=folders).out


def test_files_of_one_type_are_told_apart_by_name(folders):
    path = folders / "searched" / "flab_report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    cost = {name: report["held_out"][name] for name in ("texts", "bytes", "positions", "divergence")}
    cost |= {name: report["held_out"][name] for name in ("dense_bits_per_byte", "pruned_bits_per_byte")}
    file = {"type": "q8_0", "sha256": "", "against": "dense", "cost": cost}
    report["files"] = [{**file, "name": "a.gguf", "bytes": 1_000_000}, {**file, "name": "b.gguf", "bytes": 2_000_000}]
    path.write_text(json.dumps(report), encoding="utf-8")
    rows = table(flab("compare", "searched", cwd=folders).out)
    assert rows["GGUF q8_0 (a.gguf)"] == ["1.0 MB"] and rows["GGUF q8_0 (b.gguf)"] == ["2.0 MB"]
    (folders / "searched" / "b.gguf").write_bytes(b"another file, which was not measured")
    rows = table(flab("compare", "searched", cwd=folders).out)
    assert rows["GGUF q8_0"] == ["1.0 MB"]  # of a file that was taken away it is known what was measured


def test_json_holds_what_the_files_hold(folders):
    models = json.loads(flab("compare", "recovered", "other", "--json", cwd=folders).out)
    assert [model["folder"] for model in models] == ["recovered", "other"] and models[1]["report"] is None
    report = json.loads((folders / "recovered" / "flab_report.json").read_text(encoding="utf-8"))
    assert models[0]["report"]["held_out"]["divergence"] == report["held_out"]["divergence"]
    assert models[0]["evaluations"][0]["scores"][2]["pruned"]["value"] is None  # it was not a number


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("searched missing", 2, "folder 'missing' has neither flab_report.json nor flab_evaluation.json"),
        ("searched --plot new.txt", 2, "'new.txt' does not end in .png"),
        ("applied --plot new.png", 1, "none of these models was measured"),
        ("searched recovered results --plot new.png", 0, ""),
    ],
)
def test_a_plot_is_drawn_of_what_was_measured(folders, arguments, code, message):
    ended = flab("compare", *arguments.split(), cwd=folders)
    assert ended.code == code and message in ended.err
    assert (folders / "new.png").exists() == (code == 0)
