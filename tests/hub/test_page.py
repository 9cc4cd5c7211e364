"""The page beside the report: what it shows is what the report says, and nothing in it runs or loads anything."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from hub.conftest import evaluation_of

from optimum_flab.hub.card import write_card
from optimum_flab.hub.page import PAGE_NAME, with_bars
from optimum_flab.hub.selection import select_files
from optimum_flab.pruned import note_completion
from optimum_flab.records.report import Completion, RemovedLayer, read_report, write_report


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
    report = read_report(pruned)
    report = report.model_copy(
        update={"search": report.search.model_copy(update={"removed_layers": (RemovedLayer(layer=1, score=0.125),)})}
    )
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
    (removed,) = (table for table in page.tables if table[0] == ["layer", "score"])
    assert removed[1:] == [["1", "0.125"]]
    for shape in report.search.candidates:
        taken = "taken" if shape.chosen else ""
        assert any(row[:2] == [taken, f"{shape.vocab_size:,}"] for table in page.tables for row in table)
    assert page.widths and max(page.widths) == 100 and min(page.widths) >= 0
    assert "None were asked for" in page.text and "Not evaluated" in page.text


def test_nothing_in_it_runs_and_results_and_completions_are_added(pruned, tmp_path):
    report = read_report(pruned)
    write_report(pruned, report.model_copy(update={"notes": (HOSTILE, f"{tmp_path}/data.jsonl")}))
    results = tmp_path / "results"
    results.mkdir()
    (results / "flab_evaluation.json").write_text(json.dumps(evaluation_of(report.model_dump())))
    write_card(pruned, results=[results])
    note_completion(pruned, Completion(prompt=HOSTILE, dense=f"{HOSTILE}1", pruned=f"{HOSTILE}2"))
    page = page_of(pruned)
    assert "script" not in page.elements and page.text.count(HOSTILE) == 4
    assert "data.jsonl" in page.text and str(tmp_path) not in page.text
    assert read_report(pruned).completions[0].pruned == f"{HOSTILE}2"
    note_completion(pruned, Completion(prompt="a", dense="b", pruned="c"))
    assert len(read_report(pruned).completions) == 2
    assert "Not evaluated" not in page.text and page.row("humaneval")


def test_it_belongs_to_the_model(pruned):
    write_card(pruned)
    assert PAGE_NAME in select_files(pruned).files


def test_where_nothing_was_measured_that_is_said(pruned):
    write_report(pruned, read_report(pruned).model_copy(update={"held_out": None, "search": None, "texts": None}))
    write_card(pruned)
    page = page_of(pruned)
    assert "Nothing was measured: a plan was applied" in page.text and "Search" not in page.text


def test_bars_of_nothing():
    assert with_bars([(["a"], 0.0), (["b"], None)]) == []
    assert with_bars([(["a"], 1.0), (["b"], 4.0), (["c"], None)])[::2] == [
        (["a", "1"], 0.25),
        (["c", "not measured"], 0.0),
    ]


def test_where_nothing_differs_one_sentence_says_so(pruned):
    """As where only the vocabulary was pruned."""
    report = read_report(pruned)
    held_out = report.held_out
    same = {
        "divergence": 0.0,
        "by_kind": {kind: cost.model_copy(update={"divergence": 0.0}) for kind, cost in held_out.by_kind.items()},
        "by_token": {kind: cost.model_copy(update={"divergence": 0.0}) for kind, cost in held_out.by_token.items()},
        "by_layer": tuple(row.model_copy(update={"drift": 0.0}) for row in held_out.by_layer),
    }
    sentence = "No kind of text, no kind of token and no layer differs from the dense model"
    assert sentence not in page_of(pruned).text
    write_report(pruned, report.model_copy(update={"held_out": held_out.model_copy(update=same)}))
    write_card(pruned)
    page = page_of(pruned)
    assert sentence in page.text and "dense|²" not in page.text and "Divergence by" not in page.text


@pytest.mark.skipif(BROWSER is None, reason="no headless browser is installed")
def test_a_browser_shows_it_without_a_fault(pruned, tmp_path):
    write_card(pruned)
    shown = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--enable-logging=stderr", "--dump-dom", (pruned / PAGE_NAME).as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert shown.returncode == 0
    assert "CONSOLE" not in shown.stderr, shown.stderr  # a refused resource or a fault is noted there
    assert page_of(pruned).tables == Page(shown.stdout).tables


@pytest.mark.skipif(BROWSER is None, reason="there is no browser")
def test_long_words_do_not_make_the_page_wider_than_the_window(pruned, tmp_path):
    note_completion(pruned, Completion(prompt="x" * 3000, dense="y" * 3000, pruned="\nz"))
    text = (pruned / PAGE_NAME).read_text(encoding="utf-8")
    assert "<pre>\n\nz</pre>" in text  # HTML takes the first of them away
    # the page itself lets no script run
    measured = re.sub(r"<meta http-equiv[^>]*>", "", text).replace(
        "</body>", "<script>document.title = document.documentElement.scrollWidth > innerWidth</script></body>"
    )
    (tmp_path / "page.html").write_text(measured, encoding="utf-8")
    shown = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--window-size=400,800", "--dump-dom", (tmp_path / "page.html").as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "<title>false</title>" in shown.stdout
