"""The page beside the report: what it shows is what the report says, and nothing in it runs or loads anything."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from hub.conftest import evaluation_of, write_card, write_json, write_report

from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.names import PAGE_NAME
from optimum_flab.records.report import ComparedCompletion, RemovedLayer


VOID = {"meta", "br", "img", "link"}
HOSTILE = "<script>alert('x')</script> & \"quotes\""
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """Tables, text and elements of a page; a tag that is not closed is a fault."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.widths: list[float] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onload", "onclick"}
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if (style := dict(attrs).get("style")) is not None:
            self.widths.append(float(re.fullmatch(r"width: ([\d.]+)%", style)[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open[-2:]):
            self.tables[-1][-1][-1] += data.strip()

    def row(self, first: str) -> list[str]:
        (found,) = {tuple(row) for table in self.tables for row in table if row and row[0] == first}
        return list(found)


def page_of(folder) -> Page:
    return Page((folder / PAGE_NAME).read_text(encoding="utf-8"))


def test_it_shows_what_the_report_says(pruned):
    report = Checkpoint(pruned).report
    removed = (RemovedLayer(layer=1, score=0.125),)
    search = report.search.model_copy(update={"removed_layers": removed})
    report = report.model_copy(update={"search": search})
    write_report(pruned, report)
    write_card(pruned)
    page = page_of(pruned)
    assert page.row("parameters")[1:3] == [f"{report.dense.parameters:,}", f"{report.pruned.parameters:,}"]
    assert f"{report.removed_ratio:.1%} of all parameters removed" in page.text
    assert page.row("bits per byte")[1:3] == [
        f"{value:.4g}" for value in (report.held_out.dense_bits_per_byte, report.held_out.pruned_bits_per_byte)
    ]
    for kind, cost in report.held_out.by_token.items():
        assert page.row(kind)[1:3] == [f"{cost.positions:,}", f"{cost.divergence:.4g}"]
    assert report.held_out.by_token and report.held_out.by_layer
    (drifts,) = (table for table in page.tables if table[0][0] == "layer" and "dense|²" in table[0][1])
    expected = [[str(row.layer), f"{row.drift:.4g}"] for row in report.held_out.by_layer]
    assert [row[:2] for row in drifts[1:]] == expected
    (shown,) = (table for table in page.tables if table[0] == ["layer", "score"])
    assert shown[1:] == [["1", "0.125"]]
    for shape in report.search.candidates:
        taken = "taken" if shape.chosen else ""
        assert any(row[:2] == [taken, f"{shape.vocab_size:,}"] for table in page.tables for row in table)
    assert page.widths and max(page.widths) == 100 and min(page.widths) >= 0
    assert "None were asked for" in page.text and "Not evaluated" in page.text


def test_nothing_in_it_runs_and_results_and_completions_are_added(pruned, tmp_path):
    report = Checkpoint(pruned).report
    completions = (
        ComparedCompletion(prompt=HOSTILE, dense=f"{HOSTILE}1", pruned=f"{HOSTILE}2"),
        ComparedCompletion(prompt="a", dense="b", pruned="\nc"),
    )
    changes = {"notes": (HOSTILE, f"{tmp_path}/data.jsonl"), "completions": completions}
    write_report(pruned, report.model_copy(update=changes))
    write_json(tmp_path / "results" / "flab_evaluation.json", evaluation_of(report.model_dump()))
    write_card(pruned, results=[tmp_path / "results"])
    page = page_of(pruned)
    assert "script" not in page.elements and page.text.count(HOSTILE) == 4
    assert "data.jsonl" in page.text and str(tmp_path) not in page.text
    assert "<pre>\n\nc</pre>" in (pruned / PAGE_NAME).read_text(encoding="utf-8")  # HTML drops the first of them
    assert "Not evaluated" not in page.text and page.row("humaneval")[2:] == [
        "164",
        "40.0% [30.0%, 50.0%]",
        "39.0% [31.0%, 47.0%]",
        "97.5% [90.0%, 110.0%]",
    ]


def test_where_nothing_was_measured_or_differs_that_is_said(pruned):
    report = Checkpoint(pruned).report
    held_out, sentence = report.held_out, "The network is unchanged"
    assert sentence not in page_of(pruned).text and "What to expect" not in page_of(pruned).text
    base = report.base_model.model_copy(update={"name": "Qwen/Qwen2.5-Coder-0.5B"})
    write_report(pruned, report.model_copy(update={"base_model": base}))
    write_card(pruned)
    assert "What to expect. " in page_of(pruned).text and "models measured by this project" in page_of(pruned).text
    kinds = {"own": held_out.model_copy(update={"divergence": 0.0}), "chat": held_out}
    same = {
        **{"divergence": 0.0, "by_kind": kinds},
        "by_token": {kind: cost.model_copy(update={"divergence": 0.0}) for kind, cost in held_out.by_token.items()},
        "by_layer": tuple(row.model_copy(update={"drift": 0.0}) for row in held_out.by_layer),
    }
    write_report(pruned, report.model_copy(update={"held_out": held_out.model_copy(update=same)}))
    write_card(pruned)
    page = page_of(pruned)
    assert sentence in page.text and "dense|²" not in page.text and "Divergence by" not in page.text
    assert page.row("of the user's own sources")[2] == f"{held_out.bytes:,}"
    unknown = held_out.model_copy(update={"divergence": math.nan, "by_kind": {}})
    write_report(pruned, report.model_copy(update={"held_out": unknown}))
    write_card(pruned)
    write_report(pruned, report.model_copy(update={"held_out": None, "search": None, "texts": None}))
    write_card(pruned)
    page = page_of(pruned)
    assert "Nothing was measured: a plan was applied" in page.text and "Search" not in page.text


@pytest.mark.thorough
@pytest.mark.skipif(BROWSER is None, reason="no headless browser is installed")
def test_a_browser_shows_it_without_a_fault(pruned, tmp_path):
    long = ComparedCompletion(prompt="x" * 3000, dense="y" * 3000, pruned="z")
    write_report(pruned, Checkpoint(pruned).report.model_copy(update={"completions": (long,)}))
    write_card(pruned)
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom")
    address = (pruned / PAGE_NAME).as_uri()
    command = [BROWSER, *options, "--enable-logging=stderr", address]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0
    assert "CONSOLE" not in shown.stderr, shown.stderr  # a refused resource or a fault is noted there
    assert page_of(pruned).tables == Page(shown.stdout).tables
    # long words do not make it wider than the window; the page itself lets no script run
    measured = re.sub(r"<meta http-equiv[^>]*>", "", (pruned / PAGE_NAME).read_text(encoding="utf-8")).replace(
        "</body>", "<script>document.title = document.documentElement.scrollWidth > innerWidth</script></body>"
    )
    (tmp_path / "page.html").write_text(measured, encoding="utf-8")
    command = [BROWSER, *options, "--window-size=400,800", (tmp_path / "page.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "<title>false</title>" in shown.stdout
