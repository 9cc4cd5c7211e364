"""Cards of a tiny model that was really pruned."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil

import pytest
from hub.card_rules import card_errors
from hub.conftest import FIVE_FAMILIES, change_json, efficiency_of, evaluation_of, recovery_of, write_card, write_json
from huggingface_hub import ModelCard

from optimum_flab.criteria import LAYERS, NEURONS
from optimum_flab.evaluation.comparison import Passed, pooled_score
from optimum_flab.export import export_gguf
from optimum_flab.hub import terms as terms_module
from optimum_flab.hub.card import CardRequest, render_card
from optimum_flab.hub.frame import MARK, is_generated, metadata_of, text_of_user
from optimum_flab.hub.terms import resolve_terms
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.report import Base, BaseCard
from optimum_flab.settings.hub import TermsSettings
from optimum_flab.utils.errors import ConfigurationError, FlabError


# cards that are published have these two lines, and what stands between them stays
BEGIN = "<!-- your text: begin. What stands between these two lines stays when the card is written anew. -->"
END = "<!-- your text: end -->"
BASE = TermsSettings(base_model="someone/tiny")
NAME = "me/tiny-flab"


def rendered(folder, stated=BASE, **options):
    return render_card(Checkpoint(folder), CardRequest(stated, **options))


def card_of(folder, stated=BASE, **options):
    return rendered(folder, stated, repo_id=NAME, **options).text


def sections(text):
    """Headings with what stands below them."""
    parts = re.split(r"^(#+ .*)$", re.sub(r"```.*?```", "code", text, flags=re.DOTALL), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("evaluated", [False, True])
@pytest.mark.parametrize(
    "family", [FIVE_FAMILIES[0], *(pytest.param(name, marks=pytest.mark.thorough) for name in FIVE_FAMILIES[1:])]
)
def test_cards_are_valid_and_complete(family, evaluated, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint(family), tmp_path / "out")
    report = json.loads((folder / "flab_report.json").read_text(encoding="utf-8"))
    results = None
    if evaluated:
        write_json(tmp_path / "results" / "flab_evaluation.json", evaluation_of(report))
        write_json(tmp_path / "results" / "flab_efficiency.json", efficiency_of(report, folder))
        results = [tmp_path / "results"]
    assert write_card(folder, base_model="someone/tiny", results=results) == ()
    content = (folder / "README.md").read_text(encoding="utf-8")
    card = ModelCard(content)
    assert card_errors(content) == []
    assert "None" not in content and "nan" not in card.data.to_yaml() and "/home/" not in content
    assert str(tmp_path) not in content and str(checkpoint(family).parent) not in content
    for link in re.findall(r"\]\(([^)]+)\)", card.text):
        assert link.startswith("https://") or (folder / link).is_file(), link
    assert card.data.base_model == "someone/tiny" and card.data.base_model_relation == "finetune"
    assert card.data.license == "apache-2.0" and card.data.language == ["en"]
    assert "@misc{tiny2024" in card.text and "2412.15921" in card.text
    first, rest = card.text.split("<details>", 1)
    assert "## Limits" in first and "## Citation" in first and "## How it was made" in rest
    first = first[: first.index("## How to use it")]
    assert len(first.splitlines()) < 30 and "**Licence:** [apache-2.0]" in first and "of those of its body" in first
    if evaluated:
        assert "| humaneval, pass@1 (164 problems) | 40.0% | 39.0% | 97.5% [90.0%, 110.0%] retained |" in first
        assert "| recode | robustness drop (less is better) | 20 | 0.0% | not a number | not comparable |" in card.text
    else:
        assert "not evaluated" not in first
        assert "Speed, memory, energy and CO2e were not measured." in card.text


def test_what_it_is_for_and_how_it_is_used(pruned, report):
    (pruned / "chat_template.jinja").unlink()
    text = card_of(pruned)
    assert f'from_pretrained("{NAME}")' in text and "may lack;" in text
    assert "apply_chat_template" not in text and "optimum-cli flab prune" not in text
    change_json(pruned / "flab_report.json", pruned={**report["pruned"], "vocab_size": report["dense"]["vocab_size"]})
    assert "may lack" not in card_of(pruned)
    change_json(pruned / "tokenizer_config.json", chat_template="{{ messages[0].content }}")
    text = card_of(pruned, revision="v1")
    assert "how well the model follows instructions was not measured" in text
    assert text.count(f'("{NAME}", revision="v1")') == 2 and "apply_chat_template" not in text
    evaluation = evaluation_of(report)
    evaluation["scores"][0]["task"] = "humaneval_instruct"
    write_json(pruned / "flab_evaluation.json", evaluation)
    text = card_of(pruned)
    assert "apply_chat_template" in text and "follows instructions" not in text


def test_commands_are_shown_where_they_are_recorded(pruned):
    path = pruned / "flab_report.json"
    recovery = recovery_of(command="optimum-cli flab recover")
    change_json(path, command="optimum-cli flab prune -m tiny out", recovery=recovery)
    assert "```\noptimum-cli flab prune -m tiny out\noptimum-cli flab recover\n```" in card_of(pruned)
    change_json(path, command="```", recovery=None)
    assert "With names in place of paths" not in card_of(pruned)


@pytest.mark.parametrize("name", ["flab_report.json", "flab_evaluation.json", "flab_efficiency.json"])
def test_a_broken_file_is_refused_by_name(pruned, name):
    (pruned / name).write_text("{}", encoding="utf-8")
    with pytest.raises(FlabError, match=re.escape(name)):
        card_of(pruned)


# --- how it was made


@pytest.mark.parametrize(
    ("data", "kinds", "said"),
    [
        ({"calibration": ["mine.jsonl"]}, {"own": 3}, "`mine.jsonl` ("),
        (
            {"calibration": ["mine.jsonl"]},
            {"own": 3, "chat": 2},
            "`mine.jsonl`, and text that comes with the software (",
        ),
        ({"corpus": ["a"], "mix": {"own": 1, "library": 0}}, {"own": 3}, "a sample of the corpus ("),
        (
            {"corpus": ["a"], "mix": {"own": 0.4, "library": 0.6}},
            {"own": 2, "library": 3},
            "a sample of the corpus and text that comes with the software (",
        ),
    ],
)
def test_the_text_that_a_model_was_calibrated_on(pruned, report, data, kinds, said):
    config = json.loads((pruned / "flab_config.json").read_text(encoding="utf-8"))
    change_json(pruned / "flab_config.json", data={**config["data"], "calibration": [], **data})
    change_json(pruned / "flab_report.json", texts={**report["texts"], "calibration_by_kind": kinds})
    text = card_of(pruned)
    assert f"| calibration: decides layers and neurons of the FFNs | {said}" in text
    (corpus,) = re.findall(r"^\| corpus: decides the vocabulary \| (.*) \(\d+ texts\) \|$", text, re.MULTILINE)
    assert corpus.endswith("that comes with the software") == (len({*kinds, "own"}) > 1)


def test_held_out_text_is_counted_as_the_pruning_measured_it(pruned, report):
    config = json.loads((pruned / "flab_config.json").read_text(encoding="utf-8"))
    assert "| held-out text: only measured on | set aside from the calibration text (" in card_of(pruned)
    change_json(pruned / "flab_config.json", data={**config["data"], "held_out": ["mine.jsonl"]})
    measured = report["held_out"]
    path = pruned / "flab_report.json"
    change_json(path, texts={**report["texts"], "held_out": measured["texts"] + 40})
    assert f"only measured on | `mine.jsonl` ({measured['texts']} texts)" in card_of(pruned)
    sides = {"held_out_before": measured, "held_out_after": {**measured, "divergence": 0.1}}
    change_json(path, recovery=recovery_of(**sides, pruning_held_out={**measured, "texts": 50}))
    assert "held-out text: only measured on | `mine.jsonl` (50 texts)" in card_of(pruned)


def test_the_criteria_by_which_something_went(pruned, report):
    config, path = pruned / "flab_config.json", pruned / "flab_report.json"
    layers, neurons = LAYERS["divergence"], NEURONS["obs"]
    made = sections(card_of(pruned))["## How it was made"]
    assert f"- **Layers** by `divergence`: {layers.summary}. Score: `{layers.formula}`. Source: after Flab" in made
    assert f"- **Neurons of the FFNs** by `obs`: {neurons.summary}. Score: `{neurons.formula}`. Source: " in made
    assert "[arXiv 2412.15921](https://arxiv.org/abs/2412.15921). Parameters: `layers.search_tokens` (" in made
    change_json(config, layers={"criterion": "block-influence"}, ffn={"criterion": "of | *yours*"})
    text = card_of(pruned)
    assert "- **Layers** by `block-influence`: " in text and "[arXiv 2403.03853](https://arxiv.org/abs/2403.0" in text
    assert (
        "- **Neurons of the FFNs** by `of \\| *yours*`, which this version of `optimum-flab` computes in another way,"
        " or does not know." in text
    )
    # nothing of a component that is as it was, whatever the settings say
    change_json(path, pruned={**report["pruned"], "num_hidden_layers": report["dense"]["num_hidden_layers"]})
    text = card_of(pruned)
    assert "**Layers** by" not in text and "**Neurons of the FFNs** by" in text
    write_json(config, {})
    assert "lowest score" not in card_of(pruned)


def test_of_a_plan_that_was_applied_the_criteria_are_those_that_made_it(pruned):
    (pruned / "flab_config.json").unlink()
    plan = json.loads((pruned / "flab_plan.json").read_text(encoding="utf-8"))
    plan["settings"]["layers"]["criterion"] = "last-token-cosine"
    write_json(pruned / "flab_plan.json", plan)
    assert "- **Layers** by `last-token-cosine`: " in card_of(pruned)


def test_only_what_was_trained_or_pruned_with_is_a_dataset_of_the_model(pruned):
    config = json.loads((pruned / "flab_config.json").read_text(encoding="utf-8"))
    data = {"corpus": ["a/one[text]", "b/folder"], "calibration": ["a/two:test"], "held_out": ["a/three"]}
    change_json(pruned / "flab_config.json", data={**config["data"], **data})
    change_json(pruned / "flab_report.json", datasets=["a/one", "a/two", "a/three"])
    card = ModelCard(card_of(pruned))
    assert card.data.datasets == ["a/one", "a/two"]
    for shown in ("`a/one[text]`, `folder`", "`a/two:test`", "`a/three`", "- a/one[text]\n", "- folder\n"):
        assert shown in card.text
    assert "b/folder" not in card.content
    write_card(pruned, base_model="someone/tiny")
    change_json(pruned / "flab_config.json", data=config["data"])
    change_json(pruned / "flab_report.json", datasets=[])
    write_card(pruned)  # what an earlier card of ours stated is not taken for the user's
    assert ModelCard.load(pruned / "README.md").data.datasets is None


# --- results


def test_results_are_copied_and_used_again(pruned, report, tmp_path):
    first = evaluation_of(report)
    second = {**first, "scores": [{**first["scores"][0], "task": "mbpp"}]}
    for name, content in (("one", first), ("two", second)):
        write_json(tmp_path / name / "flab_evaluation.json", content)
    write_card(pruned, results=[tmp_path / "one", tmp_path / "two"])
    content = (pruned / "README.md").read_text(encoding="utf-8")
    names = sorted(path.name for path in pruned.glob("flab_evaluation*"))
    assert "mbpp" in content and names == ["flab_evaluation-2.json", "flab_evaluation.json"]
    write_card(pruned)
    assert (pruned / "README.md").read_text(encoding="utf-8") == content
    write_card(pruned, results=[tmp_path / "two"])
    assert [path.name for path in pruned.glob("flab_evaluation*")] == ["flab_evaluation.json"]
    assert "humaneval, pass@1" not in (pruned / "README.md").read_text(encoding="utf-8")


def test_results_of_another_model_are_left_out_and_said_to_be(pruned, report):
    write_json(pruned / "flab_evaluation.json", evaluation_of({**report, "weights_sha256": "0" * 64}))
    write_json(pruned / "flab_efficiency.json", efficiency_of({**report, "pruned": {"parameters": 5}}, pruned))
    card = rendered(pruned)
    assert "model-index" not in metadata_of(card.text)
    assert "flab_evaluation.json is an evaluation of other weights (SHA-256 000000000000…)" in card.text
    assert "measures a checkpoint of another size" in card.text
    assert len(card.notes) == 2


def test_retention_is_given_against_the_model_that_was_pruned_only(pruned, report):
    evaluation = evaluation_of(report)
    evaluation["models"]["dense"]["weights_sha256"] = "f" * 64
    write_json(pruned / "flab_evaluation.json", evaluation)
    text = card_of(pruned)
    assert "39.0% [31.0%, 47.0%]" in text
    assert "40.0%" not in text and "97.5%" not in text and "was not the model that was pruned" in text
    del evaluation["models"]["dense"]
    write_json(pruned / "flab_evaluation.json", evaluation)
    assert "The dense model was not evaluated beside it" in card_of(pruned)
    efficiency = efficiency_of(report, pruned)
    efficiency["models"]["baseline"]["parameters"] -= 1  # that of another model
    write_json(pruned / "flab_efficiency.json", efficiency)
    assert "| CO2e per 1000 tokens, estimate (g) | 0.400 |\n" in card_of(pruned)


def test_what_was_evaluated_is_not_said_to_be_missing(pruned, report):
    evaluation = evaluation_of(report)
    evaluation["scores"].append({**evaluation["scores"][0], "task": "mbpp_zero_shot"})
    evaluation["scores"][0]["retention"] = {"value": 0.9, "interval_95": [None, 2.0]}
    write_json(pruned / "flab_evaluation.json", evaluation)
    text = card_of(pruned)
    assert "90.0% [−∞, 200.0%]" in text
    missing = text.partition("Not evaluated: ")[2].partition(".")[0].split(", ")
    assert "mbpp" in missing and "humaneval_plus" in missing
    assert not {"humaneval", "mbpp_zero_shot", "recode"} & set(missing)


def test_a_score_that_is_not_a_number_is_no_result(pruned, report):
    evaluation = evaluation_of(report)
    evaluation["scores"][0]["pruned"] = {"value": None, "interval_95": [0.1, None]}
    write_json(pruned / "flab_evaluation.json", evaluation)
    card = ModelCard(card_of(pruned))
    assert [result.metric_type for result in card.data.eval_results] == ["bits_per_byte"]
    assert "not a number" in card.text


def test_several_tasks_together_come_first_and_kinds_of_text_last(pruned, report):
    passed = Passed("humaneval", range(164), [[1] * 164, [1, 0] * 82])
    lines = Passed("humaneval_infilling", [number // 7 for number in range(1033)], [[1] * 1033, [1] * 1033])
    both = json.loads(pooled_score("all code tasks", [passed, lines]).model_dump_json())
    programs = {**both, "task": "programs"}
    evaluation = evaluation_of(report)
    bits = evaluation["scores"][1]
    kinds = [{**bits, "metric": f"bits_per_byte[{name}]"} for name in ("a.jsonl", "b.jsonl", "c.jsonl", "d.jsonl")]
    gaps = {**bits, "task": "humaneval_infilling", "metric": "pass@1"}
    evaluation["scores"] = [bits, *kinds, evaluation["scores"][0], gaps, both, programs]
    evaluation["left_out"] = ["standard: CodeHarmony is left out"]
    evaluation["limited"] = {"pruned": {"humaneval": {"threads and processes": 2, "network": 1}}}
    write_json(pruned / "flab_evaluation.json", evaluation)
    content = card_of(pruned)
    summary = content.partition("| parameters ")[2].partition("bits per byte of held-out text")[0]
    assert re.findall(r"^\| (.*?) \(", summary, re.MULTILINE)[-7:] == [
        "programs, pass@1",
        "humaneval_infilling, pass@1",
        "all code tasks, pass@1",
        "perplexity, bits per byte",
        "humaneval, pass@1",
        "perplexity, bits per byte\\[a.jsonl\\]",
        "perplexity, bits per byte\\[b.jsonl\\]",
    ]
    assert (
        "All code tasks: 164 of humaneval + 1,033 of humaneval_infilling, each counted once: dense 1,197,"
        " pruned 1,115 of 1,197 passed"
    ) in content
    assert "Standard: CodeHarmony is left out." in content
    assert (
        "Humaneval, pruned: 3 programs count as failed for meeting limits of the sandbox:"
        " threads and processes (2), network (1)."
    ) in content
    assert "all code tasks" not in {
        result["dataset"]["type"] for result in metadata_of(content)["model-index"][0]["results"]
    }


def test_results_that_cannot_be_used_are_refused(pruned, report, tmp_path):
    for name in ("one", "two"):
        write_json(tmp_path / name / "flab_evaluation.json", evaluation_of(report))
        write_json(tmp_path / f"{name}-bench" / "flab_efficiency.json", efficiency_of(report, pruned))
    (tmp_path / "empty").mkdir()
    for names, message in (
        (("one", "two"), "pass@1 of humaneval is in both"),
        (("one-bench", "two-bench"), "efficiency is in both"),
        (("empty",), "empty' hold neither"),
        (("nothing",), "nothing' hold neither"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            write_card(pruned, results=[tmp_path / name for name in names])


def test_gguf_files_that_were_written_from_these_weights(pruned, checkpoint):
    from optimum_flab.checkpoints.loading import load_dense
    from optimum_flab.settings.export import ExportSettings

    loaded = load_dense(pruned)
    export_gguf(loaded, pruned / "model-q8_0.gguf", ExportSettings(type="q8_0", pre_tokenizer="qwen2"))
    export_gguf(loaded, pruned / "split.gguf", ExportSettings(pre_tokenizer="qwen2", split_megabytes=1))
    (pruned / "other.gguf").write_bytes(b"GGUF of somebody else")
    card = rendered(pruned)
    assert re.search(
        r"\| \[model-q8_0.gguf\]\(model-q8_0.gguf\) \| q8_0 \| \d+ MB \| – \| – \| `[0-9a-f]{64}` \|", card.text
    )
    assert card.notes == ("other.gguf was not written by `flab export` from these weights: not in the card",)
    first = card.text.partition("<details>")[0]
    assert "llama-cli -m model-q8_0.gguf -p 'def fibonacci(n):'\n" in first and "nats per token from" not in first
    for options, download in (({}, ""), ({"revision": "v 1"}, " --revision 'v 1'")):
        first = rendered(pruned, repo_id="me/model", **options).text.partition("<details>")[0]
        files = "model-q8_0.gguf model-q8_0.Modelfile"
        assert f"hf download me/model {files} --local-dir .{download}\nllama-cli -m model-q8_0.gguf" in first
        assert "The GGUF file by llama.cpp:" in first
    # measured against the dense model, it is what the card begins with
    held_out = json.loads((pruned / "flab_report.json").read_text(encoding="utf-8"))["held_out"]
    names = ("texts", "bytes", "positions", "dense_bits_per_byte", "pruned_bits_per_byte")
    cost = {**{name: held_out[name] for name in names}, "divergence": 0.0156}
    path = pruned / "model-q8_0.gguf"
    known = {"name": path.name, "type": "q8_0", "against": "dense", "cost": cost, "by_kind": {}}
    known |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    change_json(pruned / "flab_report.json", files=[known])
    first = card_of(pruned).partition("<details>")[0]
    assert "as **model-q8_0.gguf: " in first and "are **0.016 nats per token** from the dense model's" in first
    assert "| model-q8_0.gguf: nats per token from the dense model | – | 0.0156 | – |" in first
    change_json(pruned / "flab_report.json", weights_sha256="0" * 64)
    assert "q8_0" not in card_of(pruned)


# --- whose text it is


def test_what_a_user_adds_survives_a_refresh(pruned):
    path = pruned / "README.md"
    own = "Trained on a *Tuesday*.\n\n{{ not_a_template }} | a table? |"
    text = path.read_text(encoding="utf-8").replace(BEGIN, f"{BEGIN}\n{own}")
    added = "widget:\n- text: 'def f('\nversion: 2\ntags:\n- mine\n"
    path.write_text(text.replace("tags:\n", added), encoding="utf-8")
    assert is_generated(path.read_text(encoding="utf-8"))
    change_json(pruned / "flab_report.json", seed=77)
    write_card(pruned, base_model="someone/tiny")
    content = path.read_text(encoding="utf-8")
    assert text_of_user(content) == own and "| seed | 77 |" in content
    data = metadata_of(content)
    assert data["widget"] == [{"text": "def f("}] and data["version"] == 2 and data["tags"][-1] == "mine"
    write_card(pruned)  # what was stated once is remembered
    assert path.read_text(encoding="utf-8") == content and data["base_model"] == "someone/tiny"
    path.write_bytes(content.replace("\n", "\r\n").encode())
    write_card(pruned)
    assert path.read_text(encoding="utf-8") == content


def test_what_the_card_states_itself_is_not_the_users(pruned, report):
    path = pruned / "README.md"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("license: apache-2.0", "license: mit").replace("- pruned\n", ""), encoding="utf-8")
    write_json(pruned / "flab_evaluation.json", evaluation_of(report))
    write_card(pruned)
    data = metadata_of(path.read_text(encoding="utf-8"))
    assert data["license"] == "apache-2.0" and "pruned" in data["tags"]
    assert len(data["model-index"][0]["results"]) == 2
    change_json(pruned / "flab_report.json", weights_sha256="0" * 64)  # other weights: their results are gone
    write_card(pruned)
    assert "model-index" not in metadata_of(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "edit", [lambda text: "# mine\n", lambda text: text.replace("stock", "mine"), lambda text: text + "x"]
)
def test_a_card_that_somebody_wrote_or_changed_is_not_overwritten_unless_asked(pruned, edit):
    path = pruned / "README.md"
    path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")
    mine = path.read_bytes()
    with pytest.raises(FlabError, match="`overwrite_card`"):
        write_card(pruned)
    assert path.read_bytes() == mine
    write_card(pruned, overwrite_card=True)
    assert is_generated(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [(END, "", "not the one that ends your text"), ("tags:\n", "tags: [\n", "cannot be kept: they are not YAML")],
)
def test_a_card_that_cannot_be_kept_is_refused(pruned, old, new, message):
    path = pruned / "README.md"
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(FlabError, match=f"{message}|`overwrite_card`"):
        write_card(pruned)
    with pytest.raises(FlabError, match=message):
        write_card(pruned, overwrite_card=True)


def test_a_card_does_not_depend_on_the_name_of_its_folder(pruned):
    before = rendered(pruned).text
    assert rendered(pruned.rename(pruned.with_name(".other-name"))).text == before


# --- terms


@pytest.fixture
def on_the_hub(monkeypatch):
    """Sets what the Hub answers when it is asked for a card."""
    return lambda text, trouble="": monkeypatch.setattr(terms_module, "hub_card", lambda *_: (text, trouble))


def test_the_licence_is_inherited_and_never_guessed(on_the_hub):
    base = Base(name="someone/tiny", revision="abc", weights_sha256="0" * 64)
    on_the_hub("---\nlicense: other\nlicense_name: gemma\nlicense_link: LICENSE\nlanguage: [en, no]\n---\n")
    assert resolve_terms(base, TermsSettings(), {}, ask_hub=False).license is None
    terms = resolve_terms(base, TermsSettings(), {})
    assert (terms.license, terms.license_name, terms.language) == ("other", "gemma", ("en", "no"))
    assert terms.license_link == "https://huggingface.co/someone/tiny/blob/main/LICENSE"
    with pytest.raises(ConfigurationError, match="the base model's card says other"):
        resolve_terms(base, TermsSettings(license="mit"), {})
    with pytest.raises(ConfigurationError, match="pruned from someone/tiny"):
        resolve_terms(base, TermsSettings(base_model="someone/else"), {})
    on_the_hub(None, "it is gated")
    assert resolve_terms(base, TermsSettings(license="mit"), {}).license == "mit"
    assert resolve_terms(base, TermsSettings(), {"license": "bsd"}).license == "bsd"
    with pytest.raises(ConfigurationError, match=r"license: 'apache2' is no licence of the Hub; near it are apache-2"):
        TermsSettings(license="apache2")
    assert TermsSettings(license=" Apache-2.0 ").license == "apache-2.0"
    gone = resolve_terms(base, TermsSettings(), {})
    assert gone.license is None and gone.notes[0] == "the card of someone/tiny could not be read: it is gated"
    assert any("`license`" in note for note in gone.notes)


def test_the_user_completes_a_licence_that_the_base_models_card_leaves_open(pruned):
    stated = BaseCard(license="other", license_link="LICENSE")
    base = Base(name="/x/tiny", weights_sha256="0" * 64, card=stated)
    assert "`license_link`" in resolve_terms(base, TermsSettings(), {}).notes[0]
    answers = {"license": "other", "license_name": "a-name", "license_link": "https://x.org/L"}
    terms = resolve_terms(base, TermsSettings(**answers), {})
    assert (terms.license_name, terms.license_link) == ("a-name", "https://x.org/L")
    (pruned / "README.md").unlink()
    change_json(pruned / "flab_report.json", base_model=base.model_dump(mode="json"))
    write_card(pruned, **answers)
    write_card(pruned)  # what was stated once is remembered
    assert "license_link: https://x.org/L" in (pruned / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["/home/me/model", "./model", "models/a/b", "model.gguf", "gone\\model", "some/folder"]
)
def test_a_local_base_model_is_named_without_its_path_and_not_linked(pruned, report, name):
    (pruned / "README.md").unlink()
    change_json(pruned / "flab_report.json", base_model={**report["base_model"], "name": name, "card": None})
    text = rendered(pruned, TermsSettings()).text
    assert "base_model" not in metadata_of(text)
    assert "/home/me" not in text and "huggingface.co/s" not in text and "huggingface.co/m" not in text


def test_a_folder_that_looks_like_a_hub_id_is_not_taken_for_one(pruned, report, tmp_path, monkeypatch):
    (tmp_path / "someone" / "some-model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    base = {**report["base_model"], "name": "someone/some-model", "revision": "abc"}
    change_json(pruned / "flab_report.json", base_model=base)
    assert "base_model" not in metadata_of(rendered(pruned, TermsSettings()).text)


# --- names of others


def named(report, task, **changes):
    """An evaluation of a task of any name."""
    return evaluation_of(report, scores=[{**evaluation_of(report)["scores"][0], "task": task}], **changes)


def test_a_name_cannot_change_how_the_card_is_read(pruned, report):
    name = "mo<script>alert(1)\u202e`model"
    change_json(pruned / "flab_report.json", base_model={**report["base_model"], "name": name, "revision": None})
    text = rendered(pruned, TermsSettings()).text
    assert "<script>" not in text.replace("`mo<script>alert(1)'model`", "") and "\u202e" not in text
    assert "# mo&lt;script>alert(1)\\`model, pruned" in text


@pytest.mark.parametrize("line", [BEGIN, END, MARK.format("0" * 64)])
def test_a_name_is_not_taken_for_one_of_the_marked_lines(pruned, report, line):
    evaluation = named(report, f"odd {line}")
    evaluation["settings"]["data"] = {f"odd {line}": [line]}
    write_json(pruned / "flab_evaluation.json", evaluation)
    config = json.loads((pruned / "flab_config.json").read_text(encoding="utf-8"))
    change_json(pruned / "flab_config.json", data={**config["data"], "corpus": [f"x {line}"]})
    write_card(pruned)
    path = pruned / "README.md"
    content = path.read_text(encoding="utf-8")
    assert is_generated(content) and text_of_user(content) == ""
    path.write_text(content.replace(f"{BEGIN}\n", f"{BEGIN}\nmine\n", 1), encoding="utf-8")
    write_card(pruned)
    assert text_of_user(path.read_text(encoding="utf-8")) == "mine"


FOREIGN = (
    *("<script>alert(1)</script>", "![i](http://evil/x.png)", "[l](javascript:x)", "http://evil.example"),
    *("www.evil.org", "<img src=x onerror=1>", "a|b", "`x` **y**", "me@evil.org", "&lt;script&gt;"),
    *("_it_ ~~no~~", "back\\slash", "<!-- c"),
)


def test_names_in_tables_are_read_as_they_are(pruned, report):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    names = [f"odd {name}" for name in FOREIGN]
    rows = [{**evaluation_of(report)["scores"][0], "task": name} for name in names]
    evaluation = evaluation_of(report, scores=rows, protocols={name: name for name in names})
    evaluation["settings"]["data"] = {name: [name] for name in names}
    write_json(pruned / "flab_evaluation.json", evaluation)
    lines = [line for line in card_of(pruned).splitlines() if "odd" in line and not line.startswith("#")]
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) >= len(names)
    for line in tables[-len(names) :]:
        count = len(re.split(r"(?<!\\)\|", line)) - 2
        shown = markdown.render(f"{'| a ' * count}|\n{'|---' * count}|\n{line}\n")
        cells = re.findall(r"<td[^>]*>(.*?)</td>", shown)
        assert len(cells) == count and html.unescape(cells[0]) in names, shown
        assert not re.search(r"https?://|www\.|\w@\w+\.", line)  # where some make links without being asked
    for line in lines[len(tables) :]:
        shown = markdown.render(line)
        assert not re.search(r"<(script|img|a|em|s)\b", shown), shown


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("https://user:pw@host/f.jsonl?token=zz", "f.jsonl"),
        ("https://host/f.jsonl#part", "f.jsonl"),
        ("s3://bucket/x?sig=abc[prompt,answer]", "x[prompt,answer]"),
        ("/data/what?.jsonl", "what?.jsonl"),
    ],
)
def test_an_address_is_recorded_without_its_query(pruned, report, source, name):
    evaluation = named(report, "humaneval")
    evaluation["settings"]["data"] = {"humaneval": [source]}
    write_json(pruned / "flab_evaluation.json", evaluation)
    content = card_of(pruned)
    assert f"`{name}`" in content and f"({name})" in content
    for secret in ("zz", "pw@", "sig=", "#part"):
        assert secret not in content
