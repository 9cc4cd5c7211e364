"""The page beside the report: what it shows is what the report says, and nothing in it runs or loads anything."""

from __future__ import annotations

from html.parser import HTMLParser

from hub.conftest import evaluation_of, write_card, write_json, write_report

from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.report import ComparedCompletion


VOID = {"meta", "br", "img", "link"}
HOSTILE = "<script>alert('x')</script> & \"quotes\""


class Page(HTMLParser):
    """Text and elements of a page; a tag that is not closed is a fault, and so is whatever loads or runs something."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.text = list[str](), list[str](), ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onload", "onclick"}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(folder) -> Page:
    return Page((folder / "flab_report.html").read_text(encoding="utf-8"))


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
    # HTML drops the first of them
    assert "<pre>\n\nc</pre>" in (pruned / "flab_report.html").read_text(encoding="utf-8")
    assert "Not evaluated" not in page.text and "97.5% [90.0%, 110.0%]" in page.text


def test_of_a_network_that_is_unchanged_nothing_is_shown_by_token_and_layer(pruned):
    report, sentence = Checkpoint(pruned).report, "The network is unchanged"
    assert sentence not in page_of(pruned).text and "dense|²" in page_of(pruned).text
    same = report.held_out.model_copy(update={"divergence": 0.0})
    write_report(pruned, report.model_copy(update={"held_out": same}))
    write_card(pruned)
    text = page_of(pruned).text
    assert sentence in text and "dense|²" not in text and "Divergence by" not in text
