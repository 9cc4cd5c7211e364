"""The report is typed: what was written is read, what is foreign is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from optimum_flab.records import verdict
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.held_out import KindCost
from optimum_flab.records.report import FileCost, Report, report_text
from optimum_flab.records.rows import count_texts, file_positions
from optimum_flab.records.summary import report_summary
from optimum_flab.records.verdict import KnownFamily, Measured, file_verdicts, programs_by_body, verdict_of
from optimum_flab.utils.errors import FlabError


# of tiny models; `recovered` and `searched` with results beside them
MODELS = sorted(Path(__file__).with_name("models").iterdir())
SEARCHED, RECOVERED, EXPERTS = (
    Path(__file__).with_name("models") / name for name in ("searched", "recovered", "experts")
)


def read_report(folder):
    return Checkpoint(folder).report


def write_report(folder, report):
    (folder / "flab_report.json").write_text(report_text(report), encoding="utf-8")


def content_of(folder):
    return json.loads((folder / "flab_report.json").read_text(encoding="utf-8"))


# --- what to expect

BODY = 357_898_112  # parameters of Qwen2.5-Coder-0.5B-Instruct without those of its vocabulary
KNOWN = KnownFamily(
    bodies={"Qwen2.5-Coder-0.5B-Instruct": BODY, "Qwen2.5-Coder-1.5B-Instruct": 1_310_340_608},
    measured=[
        Measured(model=f"Qwen2.5-Coder-{size}B-Instruct", label=label, divergence=nats, share=kept, removed_body=body)
        for size, label, nats, kept, body in (
            (0.5, "with a smaller vocabulary", 0.0, 0.995, 0.0),
            (0.5, "at 0.26", 0.029, 0.91, 0.058),
            (1.5, "at 0.22", 0.084, 0.9, 0.126),
            (0.5, "at 0.35", 0.127, 0.69, 0.185),
            (0.5, "at 0.45, recovered", 0.2, 0.5, None),
        )
    ],
)
SMALLER = "The network is unchanged. Qwen2.5-Coder-0.5B-Instruct with a smaller vocabulary kept 100% of the"
RUN = "Of the models whose programs were run,"
AT_45 = (
    f"{RUN} none diverged more than Qwen2.5-Coder-0.5B-Instruct at 0.45, recovered (0.2 nats), "
    "which kept 50% of the programs"
)


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    monkeypatch.setattr(verdict, "_families", lambda: [KNOWN])


def of_known_size(report, **changes):
    """A report whose dense model has the body of one that is known."""
    part = report.dense.components["ffn"]
    components = {"vocabulary": part, "ffn": part.model_copy(update={"parameters": BODY})}
    dense = report.dense.model_copy(update={"components": components})
    base = report.base_model.model_copy(update={"name": "Qwen/Qwen2.5-Coder-0.5B-Instruct"})
    return report.model_copy(update={"dense": dense, "base_model": base, **changes})


@pytest.mark.parametrize(
    ("divergence", "bits", "each", "said"),
    [
        (0.0, 1.02, None, f"{SMALLER} programs that the dense model solves."),
        (0.0, 1.2, None, "larger vocabulary."),
        (
            0.127,
            1.2,
            8.0,
            f"0.127 nats per token on held-out problems. {RUN} the nearest is Qwen2.5-Coder-0.5B-Instruct at 0.35 (",
        ),
        (
            0.1,
            1.2,
            8.0,
            "are Qwen2.5-Coder-1.5B-Instruct at 0.22 (0.084 nats), which kept 90%, "
            "and Qwen2.5-Coder-0.5B-Instruct at 0.35 (",
        ),
        (0.13, 1.2, 8.0, "solves. What would help: `optimum-cli flab recover`, removing less."),
        (
            0.13,
            1.2,
            0.9,
            "on 0.9 tokens per neuron. What would help: more calibration text (8 tokens per neuron), `o",
        ),
        (9.0, 9.0, None, AT_45),
    ],
)
def test_what_to_expect_is_said_by_what_was_measured_of_the_family(divergence, bits, each, said):
    report = read_report(SEARCHED)
    cost = {"divergence": divergence, "dense_bits_per_byte": 1.0, "pruned_bits_per_byte": bits}
    kinds = {"problems": KindCost(texts=1, bytes=1, positions=1, **cost)}
    held_out = report.held_out.model_copy(
        update={**cost, "lost_mass": 0.016, "divergence": divergence and 99.0, "by_kind": kinds}
    )
    texts = report.texts.model_copy(update={"tokens_per_neuron": each})
    report = report.model_copy(update={"held_out": held_out, "texts": texts, "recovery": None})
    assert verdict_of(report) is None and "What to expect" not in report_summary(report)  # nothing is known of it
    base = report.base_model.model_copy(update={"name": "/data/qwen2.5-coder-0.5b-Instruct"})
    report = report.model_copy(update={"base_model": base})
    assert verdict_of(report) is None  # a toy of that name
    report = of_known_size(report)
    if divergence:  # on other text than problems: on another scale
        other = held_out.model_copy(update={"by_kind": {}})
        assert verdict_of(report.model_copy(update={"held_out": other})) is None
    assert said in verdict_of(report) and report_summary(report).endswith(f"What to expect: {verdict_of(report)}")


@pytest.mark.parametrize("divergence", [0.0, 0.13])
def test_a_vocabulary_that_lost_much_is_not_told_what_others_kept(divergence):
    report = read_report(SEARCHED)
    held_out = report.held_out.model_copy(
        update={"divergence": divergence, "lost_mass": 0.062, "texts": 40, "texts_cut_differently": 38}
    )
    problems = KindCost(**{name: getattr(held_out, name) for name in KindCost.model_fields})
    held_out = held_out.model_copy(update={"by_kind": {"problems": problems}})
    natural = report.search.model_copy(update={"natural_vocab_size": 32_682})
    said = verdict_of(of_known_size(report, held_out=held_out, search=natural))
    lost = "the tokens that are gone had 6.2% of the dense model's probability"
    cut = "38 of 40 texts are cut into other pieces and 377 tokens are left of the 32,682 that the corpus needs"
    assert lost in said and cut in said and "a larger vocabulary" in said
    assert "unchanged. " not in said and ("kept" in said) == (divergence > 0) == ("expect less" in said)


@pytest.mark.parametrize(
    ("divergence", "lost_mass", "said"),
    [
        (
            0.0004,
            0.016,
            "0.000 nats per token on held-out problems. "
            f"{RUN} the nearest is Qwen2.5-Coder-0.5B-Instruct with a smaller",
        ),
        (-0.0007, 0.016, "a.gguf: 0.000 nats per token on held-out problems"),
        (0.016, 0.016, "which kept 100%, and Qwen2.5-Coder-0.5B-Instruct at 0.26 (0.029 nats), which kept 91% of"),
        (0.016, 0.062, "; what the smaller vocabulary costs comes on top."),
        (0.3, 0.016, AT_45),
    ],
)
def test_a_file_is_judged_by_its_own_divergence(divergence, lost_mass, said):
    report = read_report(SEARCHED)
    held_out = report.held_out.model_copy(update={"divergence": 0.0, "lost_mass": lost_mass, "by_kind": {}})
    cost = KindCost(**{name: getattr(held_out, name) for name in KindCost.model_fields})
    file = FileCost(
        name="a.gguf",
        type="q4_k_m",
        bytes=1,
        sha256="",
        against="dense",
        cost=cost,
        by_kind={"problems": cost.model_copy(update={"divergence": divergence})},
    )
    other = file.model_copy(update={"name": "b.gguf", "against": "source"})
    of_other_text = file.model_copy(update={"name": "c.gguf", "by_kind": {}})
    report = of_known_size(report, held_out=held_out, files=(file, other, of_other_text))
    verdicts = file_verdicts(report)
    assert list(verdicts) == ["a.gguf"] and said in f"a.gguf: {verdicts['a.gguf']}"
    assert f"a.gguf: {verdicts['a.gguf']}" in report_summary(report)
    assert file_verdicts(report.model_copy(update={"held_out": None})) == {}


def test_a_file_takes_the_place_of_one_of_its_name():
    report = read_report(SEARCHED)
    cost = KindCost(**{name: getattr(report.held_out, name) for name in KindCost.model_fields})
    first, second = (
        FileCost(name=name, type="f16", bytes=1, sha256="", against="dense", cost=cost) for name in ("a", "b")
    )
    again = first.model_copy(update={"bytes": 2})
    assert report.with_file(first).with_file(second).with_file(again).files == (second, again)
    other = second.model_copy(update={"cost": cost.model_copy(update={"positions": 1460})})
    assert file_positions(report.with_file(first).with_file(other)) == "146 or 1,460"
    assert file_positions(report.with_file(first).with_file(second)) == "146"


def test_what_is_known_by_the_share_of_the_body_is_said_of_its_family_only():
    said = programs_by_body("Qwen/Qwen2.5-Coder-1.5B-Instruct", 1_310_340_608)
    assert "Qwen2.5-Coder-0.5B-Instruct 100% at 0.0%, 91% at 5.8%, 69% at 18.5%; " in said
    assert said.endswith("; Qwen2.5-Coder-1.5B-Instruct 90% at 12.6%.")
    of_small = programs_by_body("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", BODY)
    assert of_small == said == programs_by_body("/data/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", BODY)
    mine = "Qwen2.5-Coder-0.5B-Instruct"
    others = (
        "toy",
        "Qwen2.5-Coder-7B",
        mine.removesuffix("-Instruct"),
        f"{mine.lower()}/toy",
        f"{mine}-sql",
        f"my-{mine}",
    )
    for other in others:
        assert programs_by_body(f"Qwen/{other}", BODY) is None, other
    assert programs_by_body("Qwen/Qwen2.5-Coder-0.5B-Instruct", 99) is None


# --- what is refused


def test_a_newer_format_is_refused_with_the_version_that_reads_it(tmp_path):
    content = {**content_of(SEARCHED), "format": 3, "novelty": {}}
    (tmp_path / "flab_report.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(FlabError, match=r"has format 3.* up to 2; install a newer version"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("dense", "parameters"), "many"),
        (("search", "candidates", 0, "chosen"), 1),
        (("recovery", "training", "curve", 0, "step"), "first"),
        (("notes",), "one"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_a_damaged_report_is_refused_by_the_field(path, value, tmp_path):
    content = content_of(RECOVERED)
    section = content
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    (tmp_path / "flab_report.json").write_text(json.dumps(content))
    with pytest.raises(FlabError, match=rf" is not as it was written \({'.'.join(map(str, path))}: .*restore"):
        read_report(tmp_path)


def test_several_faults_are_counted(tmp_path):
    (tmp_path / "flab_report.json").write_text('{"base_model": 3}')
    with pytest.raises(FlabError, match=r"base_model: .*, weights_sha256: .* and \d+ more\)"):
        read_report(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "\xff", "[" * 100_000])
def test_what_is_no_report_is_refused_by_its_name(tmp_path, content):
    (tmp_path / "flab_report.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(FlabError, match=r"flab_report.json.*name the folder of a pruned model"):
        read_report(tmp_path)


# --- what is written is read


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_a_report_is_read_as_it_was_written(folder, tmp_path):
    report = read_report(folder)
    write_report(tmp_path, report)
    assert read_report(tmp_path) == report and report_text(read_report(tmp_path)) == report_text(report)
    assert content_of(tmp_path) == content_of(folder)


def test_what_is_not_a_number_is_null_in_the_file(tmp_path):
    report = read_report(RECOVERED)
    training = report.recovery.training.model_copy(update={"best_loss": math.nan, "start_loss": math.inf})
    report = report.model_copy(update={"recovery": report.recovery.model_copy(update={"training": training})})
    write_report(tmp_path, report)
    text = (tmp_path / "flab_report.json").read_text(encoding="utf-8")
    written = json.loads(text, parse_constant=pytest.fail)["recovery"]["training"]
    assert written["best_loss"] is None and written["start_loss"] is None
    assert math.isnan(read_report(tmp_path).recovery.training.best_loss)


def test_a_report_is_not_changed_by_hand():
    report = read_report(SEARCHED)
    with pytest.raises(ValidationError, match="frozen"):
        report.seed = 3
    assert Report.model_validate({**report.model_dump(), "colour": "red"}) == report


def test_one_text_is_not_several():
    assert [count_texts(number, "held-out") for number in (1, 2)] == ["1 held-out text", "2 held-out texts"]
    report = read_report(SEARCHED)
    report = report.model_copy(update={"held_out": report.held_out.model_copy(update={"texts": 1})})
    assert "On 1 held-out text (" in report_summary(report)
