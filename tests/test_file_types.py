"""The type of a GGUF file, found along with the shape for a size."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimum_flab import FlabOptimizer, FlabPrunerConfig
from optimum_flab.commands.prune import with_auto_type
from optimum_flab.export import export_gguf
from optimum_flab.export.quantiser import find_quantiser
from optimum_flab.families import family_for
from optimum_flab.hub.page import render_page
from optimum_flab.pruned import write_gguf_files
from optimum_flab.pruning import rounding as rounding_room
from optimum_flab.pruning.components import sizes_of
from optimum_flab.pruning.file_size import FileSizes
from optimum_flab.pruning.frontier import MOST_POINTS, Scored, points_around, thinned
from optimum_flab.pruning.rounding import ABOVE, BELOW, Rounding, types_near
from optimum_flab.pruning.search import (
    Candidates,
    ChosenShape,
    Expectation,
    Tried,
    _scored,
    best_option,
    candidates_for,
    other_option,
)
from optimum_flab.pruning.shapes import REFITTED, Option, cost
from optimum_flab.records.ledger import Ledger
from optimum_flab.records.report import Search, TriedShape, TriedType, parse_report, report_text
from optimum_flab.records.rows import frontier_table, next_sizes, type_table
from optimum_flab.records.summary import report_summary
from optimum_flab.settings.export import QUANTISED_TYPES, ExportSettings
from optimum_flab.settings.pruning import merge_settings
from optimum_flab.sizes import Shape, shape_of
from optimum_flab.utils.errors import ConfigurationError

from .conftest import LIMITS, QWEN, TEXTS, byte_level_tokenizer, request_for, tiny_model
from .test_limits import dense_sizes


needs_quantiser = pytest.mark.skipif(find_quantiser() is None, reason="llama.cpp is not installed")
SIZES = {"q2_k": 200, "iq3_m": 220, "iq4_xs": 230, "q4_k_m": 280, "q6_k": 390}
WHOLE, NARROW = Shape(vocab=32_000, layer=24, neuron=4864), Shape(vocab=32_000, layer=24, neuron=3840)


@given(st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 1000), max_size=40), st.integers(0, 1100))
def test_types_near_a_size_begin_with_the_largest_that_fits(sizes, budget):
    kinds = types_near(sizes, budget)
    fits = [kind for kind in kinds if sizes[kind] <= budget]
    more = kinds[len(fits) :]
    assert len(fits) == min(BELOW, sum(size <= budget for size in sizes.values()))
    assert len(more) == min(ABOVE, sum(size > budget for size in sizes.values()))
    assert [sizes[kind] for kind in fits] == sorted((sizes[kind] for kind in fits), reverse=True)
    assert [sizes[kind] for kind in more] == sorted(size for size in sizes.values() if size > budget)[:ABOVE]


def measured(bits, rounding, kind):
    sizes = Shape(vocab=32_000, layer=24, neuron=4864).reported()
    return TriedShape(
        **sizes,
        validation_divergence=bits,
        validation_vocabulary_bits_per_byte=0.6,
        validation_bits_per_byte=0.6 + bits,
        file_type=kind,
        validation_rounding_bits_per_byte=rounding,
        chosen=False,
    )


def test_what_rounding_costs_is_added():
    assert cost(measured(0.1, 0.011, "q4_k_m")) - cost(measured(0.1, None, None)) == pytest.approx(0.011 / REFITTED)


def test_among_equals_the_body_stays_and_k_quants_are_read():
    tried = Tried(
        {
            Option(NARROW, "q4_k_m"): measured(0.0100, 0.0, "q4_k_m"),
            Option(WHOLE, "iq4_xs"): measured(0.0105, 0.0, "iq4_xs"),
            Option(WHOLE, "q4_k_s"): measured(0.0106, 0.0, "q4_k_s"),
        }
    )
    assert best_option(tried, LIMITS) == Option(WHOLE, "q4_k_s")
    tried[Option(NARROW, "q5_k_m")] = measured(0.0, 0.0, "q5_k_m")
    assert best_option(tried, LIMITS) == Option(NARROW, "q5_k_m")


@pytest.mark.parametrize(("bits", "doubtful"), [(0.014, True), (0.016, False)])
def test_files_decide_only_where_the_search_may_be_wrong(bits, doubtful):
    best, other = Option(WHOLE, "iq4_xs"), Option(NARROW, "q4_k_m")
    tried = Tried({best: measured(0.01, 0.0, "iq4_xs"), other: measured(bits, 0.0, "q4_k_m")})
    assert other_option(best, tried, LIMITS) == (other if doubtful else None)


def test_of_a_type_that_was_not_measured_nothing_is_expected():
    rounding = Rounding(None, WHOLE, None)
    rounding.tried["q6_k"] = TriedType(file_type="q6_k", bytes=390, divergence=1, bits_per_byte=0.02)
    assert (rounding.expected("q6_k"), rounding.expected("q4_k_m")) == (0.02, 0.0)


def test_what_files_decided_and_what_came_near_is_noted():
    tried = [measured(bits, 0.0, kind) for bits, kind in ((0.0100, "q4_k_m"), (0.0095, "iq4_xs"), (0.0500, "q5_k_m"))]
    tried[0] = tried[0].model_copy(update={"chosen": True})
    files = [TriedType(file_type=kind, bytes=1, divergence=0.01, bits_per_byte=0.01) for kind in ("q4_k_m", "iq4_xs")]
    decided, tie = ChosenShape(WHOLE, {}, Search(candidates=tried, files=files, natural_vocab_size=1)).notes
    assert "q4_k_m 0.0100, iq4_xs 0.0100; the first was taken" in decided
    assert tie.startswith("nearly a tie in the search: ") and tie.endswith(" as iq4_xs costs 0.3% less")


def scored(size, costs, divergence, kind="q4_k_m", vocab=32_000):
    return Scored(Option(Shape(vocab=vocab, layer=24, neuron=size), kind), size, costs, divergence, False)


OPTIONS = st.tuples(st.integers(1, 500), st.floats(0, 9), st.floats(0, 9))


@given(st.lists(OPTIONS, min_size=1, max_size=60), st.data())
def test_what_could_have_been_had_never_diverges_more_where_it_is_larger(options, data):
    options = [scored(*one) for one in options]
    chosen = data.draw(st.sampled_from(options))
    points = points_around(chosen, options)
    few = thinned(points, chosen)
    assert chosen in few and len(few) <= MOST_POINTS
    assert few[0] == points[0] and few[-1] == points[-1] and {*few} <= {*points}
    for smaller, larger in pairwise(few):
        assert smaller.bytes < larger.bytes
        assert smaller.cost > larger.cost and smaller.divergence >= larger.divergence


def test_nothing_is_told_of_a_width_that_was_not_surveyed():
    """As the widest that three devices can share, which is too wide for the size."""
    config = FlabPrunerConfig(target_size="490MB", target_type="auto", align=3)
    request = request_for(config, dense_sizes(), file_sizes=lambda shape, kind: QWEN.total(shape))
    assert request.limits.largest["neuron"] == 4800
    tokens = SimpleNamespace(counted=SimpleNamespace(natural=range(32_640)))
    whole, options = request.limits.largest.resized(vocab=19_584), [Option(NARROW, "q4_k_m")]
    rounding = Rounding(None, whole, None)
    rounding.tried["q4_k_m"] = TriedType(file_type="q4_k_m", bytes=280, divergence=0.01, bits_per_byte=0.01)
    expectation = Expectation(lambda shape: float(shape["neuron"] == NARROW["neuron"]), lambda vocab: 0.0)
    inputs = SimpleNamespace(request=request, tokens=tokens)
    tried = {options[0]: measured(0.1, 0.01, "q4_k_m")}
    found = _scored(inputs, Candidates(request, [options], options[0], whole, SIZES), tried, rounding, expectation)
    assert {option.shape["neuron"] for option in found} == {NARROW["neuron"]}


def test_nothing_is_told_of_smaller_bodies_where_none_was_measured():
    expectation = Expectation(lambda shape: 4864 - shape["neuron"], lambda vocab: 0.0)
    whole = measured(0.0, None, None)
    assert expectation.divergence(NARROW, {WHOLE: whole}) is None
    assert expectation.divergence(WHOLE.resized(vocab=9), {WHOLE: whole}) == 0
    narrower = NARROW.resized(neuron=2816)
    assert expectation.divergence(narrower, {WHOLE: whole, NARROW: measured(0.1, None, None)}) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "gguf: auto finds the type for a size"),
        ({"target_size": "1MB", "target_type": "q4_0"}, "drop one of them"),
    ],
)
def test_auto_needs_a_size_and_no_other_type(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        with_auto_type(settings, ["auto"])
    assert with_auto_type(settings, ["q4_0"]) == settings
    assert with_auto_type({"target_size": "1MB"}, ["auto"])["target_type"] == "auto"


@pytest.fixture(scope="module")
def optimizer():
    tokenizer = byte_level_tokenizer(600)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3, "initializer_range": 0.05}
    return FlabOptimizer(tiny_model("llama", vocab_size=608, **sizes, **ids).to(torch.bfloat16), tokenizer)


def pruned_to(optimizer, size, tmp_path, **changes):
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text("".join(json.dumps({"text": text * 2}) + "\n" for text in TEXTS))
    data = {"sequence_length": 64, "validation_tokens": 300, "held_out_tokens": 100, "calibration_tokens": 1000}
    settings = {
        "target_size": size,
        "target_type": "auto",
        "data": {**data, "corpus": [str(corpus)], "mix": {"own": 1}},
        "vocabulary": {"keep_merges": 20},
        "ffn": {"multiple_of": 128},
    }
    return optimizer.prune(FlabPrunerConfig(**merge_settings(settings, changes)), cache_dir=tmp_path / "work")


@needs_quantiser
def test_the_file_of_the_type_that_was_found_meets_the_size(optimizer, tmp_path, monkeypatch):
    monkeypatch.setattr(rounding_room, "ABOVE", 2)
    megabytes = 1.5
    pruned = pruned_to(optimizer, f"{megabytes}MB", tmp_path)
    report = pruned.report
    assert report.target_type in QUANTISED_TYPES
    tried = report.search.candidates
    assert [one.file_type for one in tried if one.chosen] == [report.target_type]
    assert [row[0] for row in type_table(report.search) if row[-1] == "taken"] == [report.target_type]
    assert "nats, rounding" in report_summary(report) and "What could have been had" in render_page(report, ())
    assert {one.file_type for one in report.search.types} == {one.file_type for one in tried}
    points = report.search.frontier
    (taken,) = (one for one in points if one.chosen)
    assert (taken.file_type, taken.sizes) == (report.target_type, report.pruned.sizes) and taken.measured
    assert taken.bytes <= 1e6 * megabytes and points[-1].sizes == report.dense.sizes
    for smaller, larger in pairwise(points):
        assert smaller.bytes < larger.bytes and smaller.divergence >= larger.divergence
    assert {one.file_type for one in points} <= {one.file_type for one in report.search.types}
    assert next_sizes(report.search) and next_sizes(report.search) in report_summary(report)
    page = render_page(report, ())
    assert page.count("<circle") == len(points) and all(row[0] in page for row in frontier_table(report.search))
    assert parse_report(json.loads(report_text(report)), tmp_path) == report
    goes = f"{report.removed_body_ratio:.1%}" if report.removed_body_ratio else "nothing"
    assert any(f"{goes} of the body goes; {report.target_type} with" in note for note in report.notes)
    optimizer.save_pretrained(tmp_path / "out")
    dense = FlabOptimizer.from_pretrained(tmp_path / "out").dense
    written = export_gguf(dense, tmp_path / "file.gguf", ExportSettings(type=report.target_type)).files[0].bytes
    assert 0.9e6 * megabytes < written <= 1e6 * megabytes


def test_types_that_are_the_same_file_by_another_name_are_compared_once(optimizer, monkeypatch):
    """As where rows are no multiple of 256, for which iq3_s and iq3_xs fall back to the same."""
    monkeypatch.setattr("optimum_flab.pruning.search.types_here", lambda: ("iq3_xs", "iq3_s", "q8_0"))
    narrow = tiny_model("llama", 608, hidden_size=96, num_attention_heads=3, num_key_value_heads=3)
    for model, kinds in ((narrow, {"iq3_xs", "q8_0"}), (optimizer.dense.model, {"iq3_s", "iq3_xs", "q8_0"})):
        family, tokenizer = family_for(model.config), optimizer.dense.tokenizer
        sizes = FileSizes(model, family, tokenizer, torch.bfloat16, range(608))
        size = f"{sizes(shape_of(model, family), 'q8_0')}B"
        config = FlabPrunerConfig(target_size=size, target_type="auto", ffn={"multiple_of": 32})
        request = request_for(config, sizes_of(model, family), 16, file_sizes=sizes)
        counted = SimpleNamespace(natural=range(300), protected=range(50))
        found = candidates_for(request, SimpleNamespace(order=range(608), counted=counted))
        assert {row[0].file_type for row in found.rows} == kinds


def test_a_size_that_the_dense_model_has_is_refused(optimizer, tmp_path):
    with pytest.raises(ConfigurationError, match=r"1GB is more than the \d\.\d MB of the dense model as bf16"):
        pruned_to(optimizer, "1GB", tmp_path)


@needs_quantiser
def test_types_that_were_tried_for_one_size_are_known_for_another(optimizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rounding_room, "ABOVE", 2)
    first = pruned_to(optimizer, "1.5MB", tmp_path).report.search.types
    assert ": reused from" not in capsys.readouterr().err
    second = pruned_to(optimizer, "1.49MB", tmp_path).report.search.types
    both = {one.file_type for one in first} & {one.file_type for one in second}
    said = capsys.readouterr().err
    assert both and all(f"type-{kind}: reused from" in said for kind in both)
    assert [one for one in first if one.file_type in both] == [one for one in second if one.file_type in both]


@pytest.mark.parametrize("size", ["5.3MB", "3MB"])
def test_what_is_pinned_stays_whatever_type_fits(size, optimizer, tmp_path, monkeypatch):
    """Also where a single type and shape is left, which is measured nevertheless."""
    monkeypatch.setattr(rounding_room, "find_quantiser", lambda: None)
    report = pruned_to(optimizer, size, tmp_path, num_hidden_layers=2).report
    assert report.pruned.sizes["num_hidden_layers"] == 2
    of_rounding = {one.file_type: one.divergence for one in report.search.types}
    assert report.target_type in of_rounding and max(of_rounding.values()) < 0.01


def test_of_a_model_that_stays_whole_the_type_is_found(optimizer, tmp_path, monkeypatch):
    monkeypatch.setattr(rounding_room, "find_quantiser", lambda: None)
    settled = {name: {"enabled": False} for name in ("vocabulary", "layers", "ffn")}
    report = pruned_to(optimizer, "5MB", tmp_path, **settled).report
    assert report.target_type == "q8_0" and report.pruned.sizes == report.dense.sizes


def test_a_file_that_is_larger_than_was_counted_is_told(optimizer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rounding_room, "find_quantiser", lambda: None)
    pruned_to(optimizer, "5MB", tmp_path)
    optimizer.save_pretrained(tmp_path / "out")
    for size, is_told in (("5MB", False), ("100KB", True)):
        report = optimizer.pruned.report.model_copy(update={"target_size": size})
        asked = replace(optimizer.pruned, report=report)
        list(write_gguf_files(asked, optimizer.dense, [report.target_type], Ledger()))
        assert (f"bytes, more than {size}: this quantiser" in capsys.readouterr().err) == is_told
        for path in (tmp_path / "out").glob("*-pruned-*"):
            path.unlink()


@pytest.mark.parametrize("asked", [{"vocab_size": 600}, {"vocabulary": {"keep_used": True}}])
def test_a_vocabulary_that_must_stay_leaves_less_of_the_body(asked, optimizer, tmp_path, monkeypatch):
    """Although a file with the whole body and three fifths of the tokens would fit."""
    monkeypatch.setattr(rounding_room, "find_quantiser", lambda: None)
    report = pruned_to(optimizer, "2.7MB", tmp_path, **asked, layers={"enabled": False}).report
    least = asked.get("vocab_size", report.search.natural_vocab_size)
    assert all(one.sizes["vocab_size"] >= least for one in [report.pruned, *report.search.candidates])
    optimizer.save_pretrained(tmp_path / "out")
    dense = FlabOptimizer.from_pretrained(tmp_path / "out").dense
    written = export_gguf(dense, tmp_path / "file.gguf", ExportSettings(type=report.target_type)).files[0].bytes
    assert written <= 2_700_000 and report.target_type == "q8_0"


def test_of_a_size_that_takes_most_of_the_body_the_smallest_type_is_tried(optimizer, tmp_path, monkeypatch):
    monkeypatch.setattr(rounding_room, "find_quantiser", lambda: None)
    report = pruned_to(optimizer, "1.3MB", tmp_path, layers={"enabled": False}).report
    assert report.target_type == "q8_0" and report.removed_body_ratio > 0.5


def test_without_a_quantiser_the_types_of_the_package_gguf_are_left(optimizer, tmp_path, monkeypatch):
    monkeypatch.setattr(rounding_room, "find_quantiser", lambda: None)
    assert pruned_to(optimizer, "3MB", tmp_path).report.target_type in ("q8_0", "f16", "bf16", "f32")
    with pytest.raises(ConfigurationError, match="too small for every GGUF type that can be made here"):
        pruned_to(optimizer, "0.5MB", tmp_path, layers={"enabled": False})
