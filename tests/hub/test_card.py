"""Cards of tiny models that were really pruned."""

from __future__ import annotations

import html
import io
import json
import re
import shutil

import pytest
from hub.card_rules import card_errors
from hub.conftest import FIVE_FAMILIES, efficiency_of, evaluation_of, recovery_of
from huggingface_hub import ModelCard

from optimum_flab.criteria import LAYERS, NEURONS
from optimum_flab.errors import ConfigurationError, FlabError
from optimum_flab.evaluation.comparison import Passed, together
from optimum_flab.hub.card import render_card, write_card
from optimum_flab.hub.facts import CURVE_NAME, weight_bytes
from optimum_flab.hub.metadata import metadata_of
from optimum_flab.hub.ownership import BEGIN, END, MARK, is_generated, text_of_user
from optimum_flab.hub.paths import file_name, without_paths
from optimum_flab.hub.plots import LAYERS_PLOT, PARAMETERS_PLOT
from optimum_flab.hub.staging import stage
from optimum_flab.hub.terms import Answers, read_base_card, settle_terms
from optimum_flab.records.held_out import KindCost
from optimum_flab.records.report import Base, BaseCard, read_report
from optimum_flab.records.summary import report_summary
from optimum_flab.recovery import RecoverySettings


ANSWERS = Answers("someone/tiny")
NAME = "me/tiny-flab"


def write_json(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path.parent


def change_report(folder, **changes):
    report = json.loads((folder / "flab_report.json").read_text(encoding="utf-8"))
    write_json(folder / "flab_report.json", {**report, **changes})


def sections(text):
    """Headings with what stands below them."""
    parts = re.split(r"^(#+ .*)$", re.sub(r"```.*?```", "code", text, flags=re.DOTALL), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("evaluated", [False, True])
@pytest.mark.parametrize("family", FIVE_FAMILIES)
@pytest.mark.thorough
def test_ten_cards_are_valid_and_complete(family, evaluated, checkpoint, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(checkpoint(family), folder)
    report = json.loads((folder / "flab_report.json").read_text(encoding="utf-8"))
    results = None
    if evaluated:
        write_json(tmp_path / "results" / "flab_evaluation.json", evaluation_of(report))
        write_json(tmp_path / "results" / "flab_efficiency.json", efficiency_of(report, weight_bytes(folder)))
        results = [tmp_path / "results"]
    written = write_card(folder, results=results, answers=ANSWERS)
    assert written.notes == ()
    content = written.path.read_text(encoding="utf-8")
    card = ModelCard.load(written.path)
    assert card_errors(content) == []
    assert "None" not in content and "nan" not in card.data.to_yaml() and "/home/" not in content
    assert str(tmp_path) not in content and str(checkpoint(family).parent) not in content
    below = sections(card.text)
    headings = list(below)
    for heading, text in below.items():
        deeper = headings[headings.index(heading) + 1 :][:1]
        assert text.strip() or (deeper and deeper[0].startswith(heading.split()[0] + "#")), heading
    for link in re.findall(r"\]\(([^)]+)\)", card.text):
        assert link.startswith("https://") or (folder / link).is_file(), link
    assert card.data.base_model == "someone/tiny" and card.data.base_model_relation == "finetune"
    assert card.data.license == "apache-2.0" and card.data.language == ["en"]
    assert "@misc{tiny2024" in card.text and "2412.15921" in card.text
    if evaluated:
        assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
            "pass@1": 0.39,
            "bits_per_byte": 0.45,
        }
        assert "| humaneval, pass@1 (164 problems) | 40.0% | 39.0% | 97.5% [90.0%, 110.0%] retained |" in card.text
        assert "| recode | robustness_drop (less is better) | 20 | 0.0% | not a number | not comparable |" in card.text
        assert "| perplexity, bits_per_byte (less is better) (90 problems) | 0.41 | 0.45 | +9.8% |" in card.text
        assert "CO2e per 1000 tokens, estimate (g) | 0.5 | 0.4 | 0.80 ×" in card.text
    else:
        assert card.data.eval_results is None
        assert "| benchmarks | – | not evaluated | – |" in card.text
        assert "Speed, memory, energy and CO2e were not measured." in card.text


def test_size_retention_licence_and_usage_come_first(pruned, report):
    write_json(pruned / "flab_evaluation.json", evaluation_of(report))
    text = render_card(pruned, "me/tiny-flab", answers=ANSWERS).card.text
    first = text[: text.index("## What was removed")]
    assert len(first.splitlines()) < 40
    for wanted in (
        "parameters",
        "parameters of the body (all but the vocabulary)",
        "of those of its body",
        "retained",
        "**Licence:** [apache-2.0]",
        'from_pretrained("me/tiny-flab")',
        "# tiny-flab",
    ):
        assert wanted in first


def test_the_card_says_how_to_use_the_model_and_what_for(pruned, report):
    (pruned / "chat_template.jinja").unlink()
    text = render_card(pruned, "me/tiny-flab", answers=ANSWERS).card.text
    for wanted in (
        "vllm serve me/tiny-flab\n",
        "Whatever serves `Qwen2ForCausalLM` can serve it",
        f"`optimum-flab` {report['versions']['optimum-flab']}",
        "For people who use [someone/tiny](https://huggingface.co/someone/tiny) for code",
        "such as other natural languages, whose tokens the vocabulary may lack;",
    ):
        assert wanted in text, wanted
    assert "apply_chat_template" not in text and "optimum-cli flab prune" not in text
    change_report(pruned, pruned={**report["pruned"], "vocab_size": report["dense"]["vocab_size"]})
    assert "may lack" not in render_card(pruned).card.text


def test_a_chat_is_shown_where_there_is_a_template_and_what_it_is_worth_is_not_guessed(pruned, report):
    (pruned / "chat_template.jinja").unlink()
    path = pruned / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**config, "chat_template": "{{ messages[0].content }}"})
    assert "how well the model follows instructions was not measured" in render_card(pruned).card.text
    evaluation = evaluation_of(report)
    evaluation["scores"][0]["task"] = "humaneval_instruct"
    write_json(pruned / "flab_evaluation.json", evaluation)
    text = render_card(pruned).card.text
    assert "apply_chat_template" in text and "follows instructions" not in text


def test_the_commands_are_shown_where_they_are_recorded(pruned):
    recovery = recovery_of(command="optimum-cli flab recover")
    change_report(pruned, command="optimum-cli flab prune -m tiny out", recovery=recovery)
    assert "```\noptimum-cli flab prune -m tiny out\noptimum-cli flab recover\n```" in render_card(pruned).card.text
    change_report(pruned, command="```", recovery=None)
    assert "With names in place of paths" not in render_card(pruned).card.text


def test_the_plots_show_what_the_report_says(pruned, report):
    from PIL import Image

    plots = render_card(pruned).plots
    assert list(plots) == [PARAMETERS_PLOT, LAYERS_PLOT]
    assert plots == render_card(pruned).plots
    for content in plots.values():
        assert min(Image.open(io.BytesIO(content)).size) > 200
    change_report(pruned, search={**report["search"], "removed_layers": []})
    assert list(render_card(pruned).plots) == [PARAMETERS_PLOT]
    (pruned / "flab_report.json").unlink()
    assert render_card(pruned).plots == {}


def test_what_was_not_measured_is_said_to_be_missing(pruned):
    for name in ("flab_report.json", "flab_config.json", "flab_plan.json", "README.md"):
        (pruned / name).unlink()
    rendered = render_card(pruned)
    text = rendered.card.text
    for wanted in (
        "The report lists no parameter counts per component.",
        "| parameters | not recorded | not recorded | – |",
        "Not evaluated: there is no evaluation of these weights.",
        "The settings are not recorded.",
        "**Licence:** not known from the files of this model.",
    ):
        assert wanted in text
    assert text.count("Not measured") == 2
    assert "None" not in text and rendered.card.data.to_dict().keys() == {"library_name", "pipeline_tag", "tags"}
    assert any("`license`" in note for note in rendered.notes)


@pytest.mark.parametrize("field", ["dense", "held_out", "base_model", "search", "notes", "datasets", "colour"])
def test_a_report_of_another_form_is_refused_by_the_field(pruned, field):
    change_report(pruned, **{field: 7})
    with pytest.raises(FlabError, match=rf"flab_report\.json' is not as it was written \({field}: "):
        render_card(pruned)


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
@pytest.mark.parametrize("name", ["flab_report.json", "flab_evaluation.json", "flab_efficiency.json"])
def test_a_broken_file_is_refused_by_name(pruned, name, content):
    (pruned / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(FlabError, match=re.escape(name)):
        render_card(pruned)


def test_a_card_states_what_is_recorded_and_no_more(pruned, report):
    config = json.loads((pruned / "flab_config.json").read_text(encoding="utf-8"))
    text = render_card(pruned).card.text
    assert "recovery" in config and "recovery:" not in text and "then trained" not in text
    assert "neurons | a sample of the corpus and text that comes with the software (" in text
    assert "| held-out text: only measured on | set aside from the calibration text (" in text
    off = {"enabled": False}
    write_json(pruned / "flab_config.json", {**config, "layers": off, "ffn": off})
    assert "| calibration | a sample of the corpus and text" in render_card(pruned).card.text
    write_json(pruned / "flab_config.json", {})
    assert "| corpus | not recorded (" in render_card(pruned).card.text


@pytest.mark.parametrize(
    ("data", "kinds", "said"),
    [
        ({"calibration": ["mine.jsonl"]}, {"own": 3}, "`mine.jsonl` ("),
        (
            {"calibration": ["mine.jsonl"]},
            {"own": 3, "chat": 2},
            "`mine.jsonl`, and text that comes with the software (",
        ),
        ({"corpus": [], "mix": {"own": 0.4, "library": 0.6}}, {"library": 3}, "text that comes with the software ("),
        ({"corpus": ["a"], "mix": {"own": 1, "library": 0}}, {"own": 3}, "a sample of the corpus ("),
        (
            {"corpus": ["a"], "mix": {"own": 0.4, "library": 0.6}},
            {"own": 2, "library": 3},
            "a sample of the corpus and text that comes with the software (",
        ),
    ],
)
def test_the_card_says_whose_text_a_model_was_calibrated_on(pruned, report, data, kinds, said):
    config = json.loads((pruned / "flab_config.json").read_text(encoding="utf-8"))
    write_json(pruned / "flab_config.json", {**config, "data": {**config["data"], "calibration": [], **data}})
    change_report(pruned, texts={**report["texts"], "calibration_by_kind": kinds})
    assert f"| calibration: decides layers and neurons | {said}" in render_card(pruned).card.text


def test_named_held_out_text_is_counted_without_that_of_other_kinds(pruned, report):
    config = json.loads((pruned / "flab_config.json").read_text(encoding="utf-8"))
    write_json(pruned / "flab_config.json", {**config, "data": {**config["data"], "held_out": ["mine.jsonl"]}})
    change_report(pruned, texts={**report["texts"], "held_out": report["held_out"]["texts"] + 40})
    assert f"only measured on | `mine.jsonl` ({report['held_out']['texts']} texts)" in render_card(pruned).card.text


def test_after_a_recovery_the_card_still_counts_what_the_pruning_measured_on(pruned, report):
    config = json.loads((pruned / "flab_config.json").read_text(encoding="utf-8"))
    write_json(pruned / "flab_config.json", {**config, "data": {**config["data"], "held_out": ["mine.jsonl"]}})
    before, of_pruning = report["held_out"], {**report["held_out"], "texts": 50}
    sides = {"held_out_before": before, "held_out_after": {**before, "divergence": 0.1}}
    change_report(pruned, recovery=recovery_of(**sides, pruning_held_out=of_pruning))
    assert "held-out text: only measured on | `mine.jsonl` (50 texts)" in render_card(pruned).card.text
    change_report(pruned, recovery=recovery_of(**sides))
    assert "held-out text: only measured on | `mine.jsonl` |" in render_card(pruned).card.text


def test_the_card_quotes_the_criteria_by_which_something_went(pruned, report):
    config = json.loads((pruned / "flab_config.json").read_text(encoding="utf-8"))
    layers, neurons = LAYERS["divergence"], NEURONS["obs"]
    made = sections(render_card(pruned).card.text)["## How it was made"]
    assert f"- **Layers** by `divergence`: {layers.summary}. Score: `{layers.formula}`. Source: after Flab" in made
    assert f"- **Neurons of the FFNs** by `obs`: {neurons.summary}. Score: `{neurons.formula}`. Source: " in made
    assert "[arXiv 2412.15921](https://arxiv.org/abs/2412.15921). Parameters: `layers.search_tokens` (" in made
    # nothing of a component that is as it was, whatever the settings say
    change_report(pruned, pruned={**report["pruned"], "num_hidden_layers": report["dense"]["num_hidden_layers"]})
    text = render_card(pruned).card.text
    assert "**Layers** by" not in text and "**Neurons of the FFNs** by `obs`" in text
    change_report(pruned, pruned=report["dense"])
    assert "lowest score" not in render_card(pruned).card.text
    # another choice, one of another version, and none
    change_report(pruned, pruned=report["pruned"])
    of = {"layers": {**config["layers"], "criterion": "block-influence"}, "ffn": {"criterion": "of | *yours*"}}
    write_json(pruned / "flab_config.json", {**config, **of})
    text = render_card(pruned).card.text
    assert "- **Layers** by `block-influence`: " in text and "[arXiv 2403.03853](https://arxiv.org/abs/2403.0" in text
    assert "- **Neurons of the FFNs** by `of \\| *yours*`, which this version of `optimum-flab` does not know." in text
    write_json(pruned / "flab_config.json", {})
    assert "lowest score" not in render_card(pruned).card.text


def test_of_a_plan_that_was_applied_the_card_quotes_the_criteria_that_made_it(pruned):
    (pruned / "flab_config.json").unlink()
    plan = json.loads((pruned / "flab_plan.json").read_text(encoding="utf-8"))
    plan["settings"]["layers"]["criterion"] = "last-token-cosine"
    write_json(pruned / "flab_plan.json", plan)
    text = render_card(pruned).card.text
    assert "- **Layers** by `last-token-cosine`: " in text and "- **Neurons of the FFNs** by `obs`: " in text


@pytest.mark.parametrize(
    "changes",
    [
        {"settings": {"data": {"humaneval": None, "mbpp": "file"}, "samples": 5}},
        {"settings": {}, "versions": {}, "more": 3},
        {"scores": [{"task": "a", "metric": "b"}]},
    ],
)
def test_what_an_evaluation_leaves_out_is_left_out(pruned, report, changes):
    write_json(pruned / "flab_evaluation.json", evaluation_of(report, **changes))
    content = render_card(pruned).card.content
    assert "None" not in content


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("settings.data.mbpp", {"settings": {"data": {"mbpp": 3}}}),
        ("settings.limit", {"settings": {"limit": "5"}}),
        ("scores.0.pruned", {"scores": [{"task": "a", "metric": "b", "pruned": 3}]}),
        ("scores.0.metric", {"scores": [{"task": "a"}]}),
        ("models", {"models": 3}),
    ],
)
def test_an_evaluation_of_another_form_is_refused_by_the_field(pruned, report, field, changes):
    write_json(pruned / "flab_evaluation.json", evaluation_of(report, **changes))
    with pytest.raises(FlabError, match=rf"flab_evaluation\.json' .*{re.escape(field)}"):
        render_card(pruned)


def test_a_score_that_is_not_a_number_is_no_result(pruned, report):
    evaluation = evaluation_of(report)
    evaluation["scores"][0]["pruned"] = {"value": float("nan"), "interval_95": [0.1, float("nan")]}
    write_json(pruned / "flab_evaluation.json", evaluation)
    card = render_card(pruned, answers=ANSWERS).card
    assert [result.metric_type for result in card.data.eval_results] == ["bits_per_byte"]
    assert "not a number" in card.text and "nan" not in card.content.lower().replace("finance", "")


@pytest.mark.parametrize("changes", [{"workload": {}}, {"device": None}, {"table": [{"metric": "x"}]}])
def test_what_efficiency_leaves_out_is_left_out(pruned, report, changes):
    write_json(pruned / "flab_efficiency.json", efficiency_of(report, weight_bytes(pruned), **changes))
    assert "None" not in render_card(pruned).card.text


@pytest.mark.parametrize(("field", "changes"), [("workload", {"workload": 3}), ("table.0.metric", {"table": [{}]})])
def test_efficiency_of_another_form_is_refused_by_the_field(pruned, report, field, changes):
    write_json(pruned / "flab_efficiency.json", efficiency_of(report, weight_bytes(pruned), **changes))
    with pytest.raises(FlabError, match=rf"flab_efficiency\.json' .*{re.escape(field)}"):
        render_card(pruned)


def test_only_what_was_trained_or_pruned_with_is_a_dataset_of_the_model(pruned):
    config = json.loads((pruned / "flab_config.json").read_text(encoding="utf-8"))
    config["data"] |= {"corpus": ["a/one[text]", "b/folder"], "calibration": ["a/two:test"], "held_out": ["a/three"]}
    write_json(pruned / "flab_config.json", config)
    change_report(pruned, datasets=["a/one", "a/two", "a/three"])
    card = render_card(pruned).card
    assert card.data.datasets == ["a/one", "a/two"]
    for shown in ("`a/one[text]`, `folder`", "`a/two:test`", "`a/three`", "- a/one[text]\n", "- folder\n"):
        assert shown in card.text
    assert "b/folder" not in card.content


def test_a_model_that_was_trained_says_so(pruned, report):
    before = {**report["held_out"], "divergence": 0.5}
    settings = RecoverySettings(
        data=["/home/me/x.jsonl", "owner/taught"], text="/home/me/prose.txt", learning_rate=7e-4
    ).model_dump()
    recovery = recovery_of(
        settings=settings,
        datasets=["owner/taught"],
        held_out_before=before,
        held_out_after={**before, "divergence": 0.25},
        notes=["stopped early"],
    )
    recovery["data"] |= {"examples": 2_000, "kept": 1_500, "sequences": 90, "tokens": 40_000, "dropped": {}}
    recovery["data"]["plain_text"]["passages"] = 7
    recovery["training"] |= {"steps_done": 33, "best_step": 22}
    change_report(pruned, recovery=recovery)
    (pruned / CURVE_NAME).write_bytes(b"a picture")
    card = render_card(pruned).card
    assert card.data.datasets == ["owner/taught"]
    for wanted in (
        "pruned and then trained by",
        "| training data | `x.jsonl`, `owner/taught` |",
        "| plain text among them | 7 passages of `prose.txt` |",
        "| training examples | 1,500 of 2,000 read, in 90 sequences of 40,000 tokens in all |",
        "learning rate: 0.0007, LoRA rank: 32",
        "| training steps | 33 done; the weights are those after step 22 |",
        "| measurement | pruned | trained |",
        "over the vocabulary that is left | 0.5 | 0.25 |",
        "that were not trained on.",
        f"]({CURVE_NAME})",
        "learning_rate: 0.0007",
        "- Stopped early.",
    ):
        assert wanted in card.text
    assert "None" not in card.content
    recovery["data"]["plain_text"]["sources"] = ["python-packages", "mine/other.txt"]
    change_report(pruned, recovery={**recovery, "settings": {}})
    (pruned / CURVE_NAME).unlink()
    bare = render_card(pruned).card.text
    assert "None" not in bare and CURVE_NAME not in bare and "| training data | not recorded |" in bare
    assert "| 7 passages of `python-packages`, `other.txt` |" in bare


def test_what_the_pruning_cost_by_kind_is_shown_after_a_training_too(pruned, report):
    measured = report["held_out"]
    cost = {name: measured[name] for name in KindCost.model_fields}
    measured["by_kind"] = {"own": {**cost, "divergence": 0.25}, "library": {**cost, "divergence": 0.75}}
    after = {**measured, "by_kind": {}}
    recovery = recovery_of(held_out_before=after, held_out_after=after, pruning_held_out=measured)
    texts = 2 * measured["texts"]
    trained = f"By kind of text, before any training, on the {texts} held-out texts of the pruning:"
    for lead, changes in (
        ("By kind of text:", {"held_out": measured}),
        (trained, {"held_out": after, "recovery": recovery}),
    ):
        change_report(pruned, **changes)
        text = render_card(pruned).card.text
        assert lead in text
        table = text.partition(lead)[2]
        assert "| 0.25 |" in table and "| 0.75 |" in table
        shown = report_summary(read_report(pruned))
        assert "0.2500" in shown and "0.7500" in shown
    assert f"Before it, on the {texts} held-out texts of the pruning:" in shown


def test_what_comes_with_the_software_is_said_of_the_corpus_too(pruned, report):
    texts = {**report["texts"], "corpus": 33}
    for kinds, suffix in (({"own": 9}, ""), ({"own": 9, "chat": 2}, ", and text that comes with the software")):
        change_report(pruned, texts={**texts, "calibration_by_kind": kinds})
        row = next(line for line in render_card(pruned).card.text.splitlines() if line.startswith("| corpus: "))
        assert row.endswith(f"{suffix} (33 texts) |") and (suffix or "that comes with" not in row)


def test_the_time_of_all_rounds_is_told(pruned, report):
    recovery = recovery_of(held_out_before=report["held_out"], held_out_after=report["held_out"])
    first = {
        "removed_ratio": 0.1,
        "pruned": report["pruned"],
        "recovery": recovery,
        "seconds": {"shape": 20.0, "plan": 6.0},
    }
    change_report(pruned, recovery=recovery, earlier_rounds=[first], seconds={"plan": 34.0})
    text = render_card(pruned).card.text
    assert "| time of the pruning | 60 s in 2 rounds, measurements included |" in text
    assert "held-out text: only measured on" not in text  # the last of several prunings measures nothing


# --- whose text it is


def test_the_users_text_survives_a_refresh(pruned):
    path = pruned / "README.md"
    own = "Trained on a *Tuesday*.\n\n{{ not_a_template }} | a table? |"
    path.write_text(path.read_text(encoding="utf-8").replace(BEGIN, f"{BEGIN}\n{own}"), encoding="utf-8")
    assert is_generated(path.read_text(encoding="utf-8"))
    change_report(pruned, seed=77)
    write_card(pruned, answers=ANSWERS)
    content = path.read_text(encoding="utf-8")
    assert text_of_user(content) == own and "| seed | 77 |" in content
    write_card(pruned)  # what was answered once is remembered
    assert path.read_text(encoding="utf-8") == content
    path.write_bytes(content.replace("\n", "\r\n").encode())
    write_card(pruned)
    assert text_of_user(path.read_text(encoding="utf-8")) == own


@pytest.mark.parametrize(
    "edit", [lambda text: "# mine\n", lambda text: text.replace("apache-2.0", "mit"), lambda text: text + "x"]
)
def test_a_card_that_somebody_wrote_or_changed_is_not_overwritten_unless_asked(pruned, edit):
    path = pruned / "README.md"
    path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")
    mine = path.read_bytes()
    with pytest.raises(FlabError, match="`overwrite_card`"):
        write_card(pruned)
    assert path.read_bytes() == mine
    write_card(pruned, overwrite=True)
    assert is_generated(path.read_text(encoding="utf-8"))


def test_a_card_does_not_depend_on_the_name_of_its_folder(pruned):
    before = str(render_card(pruned).card)
    assert str(render_card(pruned.rename(pruned.with_name(".other-name"))).card) == before


def test_a_failed_write_leaves_the_old_card(pruned, monkeypatch):
    before = {path.name: path.read_bytes() for path in pruned.iterdir()}

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(FlabError, match="No space left"):
        write_card(pruned, answers=ANSWERS)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in pruned.iterdir()} == before


# --- results


def test_results_are_copied_and_used_again(pruned, report, tmp_path):
    first = evaluation_of(report)
    second = {**first, "scores": [{**first["scores"][0], "task": "mbpp"}]}
    for name, content in (("one", first), ("two", second)):
        write_json(tmp_path / name / "flab_evaluation.json", content)
    write_card(pruned, results=[tmp_path / "one", tmp_path / "two"])
    content = (pruned / "README.md").read_text(encoding="utf-8")
    assert "mbpp" in content
    assert sorted(path.name for path in pruned.glob("flab_evaluation*")) == [
        "flab_evaluation-2.json",
        "flab_evaluation.json",
    ]
    write_card(pruned)
    assert (pruned / "README.md").read_text(encoding="utf-8") == content
    write_card(pruned, results=[tmp_path / "two"])
    assert [path.name for path in pruned.glob("flab_evaluation*")] == ["flab_evaluation.json"]
    assert "humaneval, pass@1" not in (pruned / "README.md").read_text(encoding="utf-8")


def test_results_of_other_weights_are_left_out_and_said_to_be(pruned, report):
    other = evaluation_of({**report, "weights_sha256": "0" * 64})
    write_json(pruned / "flab_evaluation.json", other)
    write_json(pruned / "flab_efficiency.json", efficiency_of(report, 12345))
    rendered = render_card(pruned, answers=ANSWERS)
    assert rendered.card.data.eval_results is None
    assert "flab_evaluation.json is an evaluation of other weights (SHA-256 000000000000…)" in rendered.card.text
    assert "measures a checkpoint of another size" in rendered.card.text
    assert len(rendered.notes) == 2


def test_retention_is_given_against_the_model_that_was_pruned_only(pruned, report):
    evaluation = evaluation_of(report)
    evaluation["models"]["dense"]["weights_sha256"] = "f" * 64
    write_json(pruned / "flab_evaluation.json", evaluation)
    text = render_card(pruned).card.text
    assert "39.0% [31.0%, 47.0%]" in text
    assert "40.0%" not in text and "97.5%" not in text and "was not the model that was pruned" in text


def test_a_part_of_the_problems_is_said_to_be_one(pruned, report):
    settings = {"limit": 20, "samples": 5, "temperature": 0.8, "seed": 3}
    write_json(pruned / "flab_evaluation.json", evaluation_of(report, settings=settings))
    card = render_card(pruned).card
    assert "**only the first 20 problems of each task**" in card.text and "5 samples per problem" in card.text
    assert "(first 164 problems)" in card.text
    assert card.data.eval_results[0].dataset_name == "humaneval (first 20 problems)"


def test_the_same_score_twice_is_refused(pruned, report, tmp_path):
    for name in ("one", "two"):
        write_json(tmp_path / name / "flab_evaluation.json", evaluation_of(report))
    with pytest.raises(ConfigurationError, match="pass@1 of humaneval is in both"):
        write_card(pruned, results=[tmp_path / "one", tmp_path / "two"])


def test_several_tasks_together_come_first_and_kinds_of_text_last(pruned, report, tmp_path):
    passed = Passed("humaneval", range(164), [1, 0] * 82, [1] * 164)
    lines = Passed("humaneval_infilling", [number // 7 for number in range(1033)], [1] * 1033, [1] * 1033)
    row = together([passed, lines]).to_dict()
    evaluation = evaluation_of(report)
    bits = evaluation["scores"][1]
    kinds = [{**bits, "metric": f"bits_per_byte[{name}]"} for name in ("a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl")]
    evaluation["scores"] = [bits, *kinds, evaluation["scores"][0], row]
    write_json(tmp_path / "one" / "flab_evaluation.json", evaluation)
    other = {**evaluation, "scores": [{**evaluation["scores"][0], "task": "mbpp"}, row]}
    write_json(tmp_path / "two" / "flab_evaluation.json", other)
    write_card(pruned, results=[tmp_path / "one", tmp_path / "two"])  # each has its own row of all
    content = (pruned / "README.md").read_text(encoding="utf-8")
    summary = content.partition("| parameters ")[2].partition("bits per byte of held-out text")[0]
    assert re.findall(r"^\| (.*?) \(", summary, re.MULTILINE)[-6:] == [
        "all code tasks, pass@1",
        "perplexity, bits_per_byte",
        "humaneval, pass@1",
        "perplexity, bits_per_byte\\[a.jsonl\\]",
        "perplexity, bits_per_byte\\[b.jsonl\\]",
        "perplexity, bits_per_byte\\[c.jsonl\\]",
    ]
    assert (
        "All code tasks: 164 of humaneval + 1,033 of humaneval_infilling, each counted once: dense 1,197,"
        " pruned 1,115 of 1,197 passed"
    ) in content
    index = metadata_of(content)["model-index"][0]["results"]
    assert "all code tasks" not in {result["dataset"]["type"] for result in index}
    assert sum(len(result["metrics"]) for result in index) == 7

    evaluation["models"]["dense"]["weights_sha256"] = "f" * 64
    evaluation["settings"]["limit"] = 9
    write_json(pruned / "flab_evaluation.json", evaluation)
    text = render_card(pruned, results=[pruned / "flab_evaluation.json"]).card.text
    assert "each counted once: pruned 1,115 of 1,197 passed" in text
    assert "all code tasks, pass@1 (1,197 problems, the first 9 of each task)" in text


@pytest.mark.parametrize("place", ["nothing", "empty"])
def test_results_that_are_none_are_refused(pruned, tmp_path, place):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match=place):
        write_card(pruned, results=[tmp_path / place])


# --- terms


def fetched(text):
    return lambda repo_id, revision: (text, "")


def test_the_licence_is_inherited_and_never_guessed():
    base = Base(name="someone/tiny", revision="abc", weights_sha256="0" * 64)
    card = "---\nlicense: other\nlicense_name: gemma\nlicense_link: LICENSE\nlanguage: en\n---\n"
    terms = settle_terms(base, fetch=fetched(card))
    assert (terms.license, terms.license_name, terms.language) == ("other", "gemma", ("en",))
    assert terms.license_link == "https://huggingface.co/someone/tiny/blob/main/LICENSE"
    assert settle_terms(base).license is None
    assert settle_terms(base, answers=Answers(license="mit")).license == "mit"
    gone = settle_terms(base, fetch=lambda repo_id, revision: (None, "it is gated"))
    assert gone.license is None and "it is gated" in gone.notes[0]
    with pytest.raises(ConfigurationError, match="the base model's card says other"):
        settle_terms(base, answers=Answers(license="mit"), fetch=fetched(card))
    with pytest.raises(ConfigurationError, match="pruned from someone/tiny"):
        settle_terms(base, answers=Answers("someone/else"))


def test_the_user_completes_a_licence_that_the_base_models_card_leaves_open(pruned):
    stated = BaseCard(license="other", license_name="a-name", license_link="LICENSE")
    base = Base(name="/x/tiny", weights_sha256="0" * 64, card=stated)
    assert "`license_link`" in settle_terms(base).notes[0]
    answers = Answers(None, "other", "a-name", "https://x.org/L")
    terms = settle_terms(base, answers=answers)
    assert (terms.license_name, terms.license_link, terms.notes) == ("a-name", "https://x.org/L", ())
    (pruned / "README.md").unlink()
    change_report(pruned, base_model=base.model_dump(mode="json"))
    write_card(pruned, answers=answers)
    write_card(pruned)  # what was answered once is remembered
    assert "license_link: https://x.org/L" in (pruned / "README.md").read_text(encoding="utf-8")
    with pytest.raises(ConfigurationError, match="license_name: another; .*says a-name"):
        settle_terms(base, answers=Answers(None, "other", "another", "https://x.org/L"))


@pytest.mark.parametrize(
    "name", ["/home/me/model", "./model", "models/a/b", "model.gguf", "gone\\model", "some/folder"]
)
def test_a_local_base_model_is_named_without_its_path_and_not_linked(pruned, report, name):
    (pruned / "README.md").unlink()
    change_report(pruned, base_model={**report["base_model"], "name": name, "card": None})
    card = render_card(pruned, "me/model-flab").card
    assert "base_model" not in card.data.to_dict()
    assert "/home/me" not in card.content and "huggingface.co" not in card.content


def test_a_folder_that_looks_like_a_hub_id_is_not_taken_for_one(pruned, report, tmp_path, monkeypatch):
    (tmp_path / "someone" / "some-model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    change_report(pruned, base_model={**report["base_model"], "name": "someone/some-model", "revision": "abc"})
    assert "base_model" not in render_card(pruned).card.data.to_dict()


def test_a_name_cannot_change_how_the_card_is_read(pruned, report):
    name = "mo<script>alert(1)\u202e`model"
    change_report(pruned, base_model={**report["base_model"], "name": name, "revision": None})
    text = render_card(pruned).card.content
    assert "<script>" not in text.replace("`mo<script>alert(1)'model`", "") and "\u202e" not in text
    assert "# mo&lt;script>alert(1)\\`model, pruned" in text


@pytest.mark.parametrize(
    "text", ["", "---\n- a\n---\n", "---\nlicense: [1\n---\n", "---\nlicense: 7\nlanguage: 3\n---\nx"]
)
def test_a_base_card_of_another_form_states_nothing(text):
    assert read_base_card(text) == {}


@pytest.mark.parametrize(
    "values", [("no owner",), ("a/b/c",), (None, "Apache 2.0"), (None, "other"), (None, None, "x", "https://x")]
)
def test_answers_that_the_hub_would_refuse(values):
    with pytest.raises(ConfigurationError):
        Answers(*values)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/data/valid.jsonl[prompt,answer]", "valid.jsonl[prompt,answer]"),
        ("C:\\data\\valid.jsonl", "valid.jsonl"),
        ("~/data/corpus", "corpus"),
        ("/srv/corpus/", "corpus"),
        ("org/dataset:train[text]", "org/dataset:train[text]"),
        ("python-stdlib", "python-stdlib"),
        ("//", "//"),
        ("/*", "/*"),
    ],
)
def test_paths_of_the_machine_are_reduced_to_names(text, shown):
    assert file_name(text) == shown
    assert without_paths({"a": [text, 3, None]}) == {"a": [shown, 3, None]}


def test_the_card_says_how_the_tasks_ask_and_which_were_not_evaluated(pruned, report):
    evaluation = evaluation_of(report, protocols={"humaneval": "one greedy completion"})
    evaluation["scores"].append({**evaluation["scores"][0], "task": "mbpp_zero_shot"})
    write_json(pruned / "flab_evaluation.json", evaluation)
    content = str(render_card(pruned).card)
    assert "How the tasks ask: humaneval: one greedy completion." in content
    missing = content.partition("Not evaluated: ")[2].partition(".")[0].split(", ")
    assert "mbpp" in missing and "humaneval_plus" in missing
    assert not {"humaneval", "mbpp_zero_shot", "recode"} & set(missing)


# --- names of others


def named(report, task, **changes):
    """An evaluation of a task of any name."""
    return evaluation_of(report, scores=[{**evaluation_of(report)["scores"][0], "task": task}], **changes)


@pytest.mark.parametrize("line", [BEGIN, END, MARK.format("0" * 64, "")])
@pytest.mark.parametrize("place", ["task", "data", "settings"])
@pytest.mark.thorough
def test_a_name_is_not_taken_for_one_of_the_marked_lines(pruned, report, line, place):
    evaluation = named(report, f"odd {line}" if place == "task" else "odd")
    if place == "data":
        evaluation["settings"]["data"] = {"odd": [line]}
    write_json(pruned / "flab_evaluation.json", evaluation)
    if place == "settings":
        settings = json.loads((pruned / "flab_config.json").read_text(encoding="utf-8"))
        settings["data"]["corpus"] = [f"x {line}"]
        write_json(pruned / "flab_config.json", settings)
    for text in ("", "mine"):
        content = render_card(pruned, NAME, own_text=text).content
        assert is_generated(content) and text_of_user(content) == text
    path = write_card(pruned).path
    path.write_text(path.read_text(encoding="utf-8").replace(f"{BEGIN}\n", f"{BEGIN}\nmine\n", 1), encoding="utf-8")
    write_card(pruned)
    assert text_of_user(path.read_text(encoding="utf-8")) == "mine"


FOREIGN = (
    *(
        "<script>alert(1)</script>",
        "![i](http://evil/x.png)",
        "[l](javascript:x)",
        "http://evil.example",
        "www.evil.org",
    ),
    *(
        "<img src=x onerror=1>",
        "a|b",
        "`x` **y**",
        "me@evil.org",
        "&lt;script&gt;",
        "_it_ ~~no~~",
        "back\\slash",
        "<!-- c",
    ),
)


@pytest.mark.parametrize("name", FOREIGN)
def test_names_in_tables_are_read_as_they_are(pruned, report, name):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    evaluation = named(report, f"odd {name}", protocols={f"odd {name}": name})
    evaluation["settings"]["data"] = {f"odd {name}": [name]}
    write_json(pruned / "flab_evaluation.json", evaluation)
    text = render_card(pruned, NAME).card.text
    lines = [line for line in text.splitlines() if "odd" in line and not line.startswith("#")]
    assert len(lines) == 3
    for line in lines[:2]:  # two tables
        count = len(re.split(r"(?<!\\)\|", line)) - 2
        table = f"{'| a ' * count}|\n{'|---' * count}|\n{line}\n"
        shown = markdown.render(table)
        cells = re.findall(r"<td[^>]*>(.*?)</td>", shown)
        assert len(cells) == count and html.unescape(cells[0]).startswith(f"odd {name}"), shown
        assert not re.search(r"https?://|www\.|\w@\w+\.", line)  # where some make links without being asked
    shown = markdown.render(lines[2])
    assert not re.search(r"<(script|img|a|em|s|strong)\b", re.sub(r"<strong>only.*?</strong>", "", shown)), shown


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://user:pw@host/f.jsonl?token=zz", "f.jsonl"),
        ("https://host/f.jsonl#part", "f.jsonl"),
        ("s3://bucket/x?sig=abc[prompt,answer]", "x[prompt,answer]"),
        ("/data/what?.jsonl", "what?.jsonl"),
        ("C#/f.jsonl", "f.jsonl"),
    ],
)
def test_an_address_is_recorded_without_its_query(pruned, report, source, name):
    evaluation = named(report, "humaneval")
    evaluation["settings"]["data"] = {"humaneval": [source]}
    write_json(pruned / "flab_evaluation.json", evaluation)
    content = render_card(pruned, NAME).content
    assert f"`{name}`" in content and f"({name})" in content
    for secret in ("zz", "pw@", "sig=", "#part"):
        assert secret not in content
    staged = stage(pruned, NAME).files["flab_evaluation.json"]
    assert json.loads(staged)["settings"]["data"] == {"humaneval": [name]}


def test_an_end_that_is_not_known_is_infinite_on_its_own_side(pruned, report):
    evaluation = named(report, "humaneval")
    evaluation["scores"][0]["retention"] = {"value": 0.9, "interval_95": [None, 2.0]}
    write_json(pruned / "flab_evaluation.json", evaluation)
    text = render_card(pruned, NAME).card.text
    assert "[−∞, 200.0%]" in text and "[∞" not in text
    evaluation["scores"][0]["retention"]["interval_95"] = [0.5, None]
    write_json(pruned / "flab_evaluation.json", evaluation)
    assert "[50.0%, ∞]" in render_card(pruned, NAME).card.text
