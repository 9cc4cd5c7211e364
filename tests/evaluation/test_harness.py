"""Evaluation end to end on tiny models of real classes."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import PROSE, TEXTS, byte_level_tokenizer, tiny_model
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import decoders
from transformers import GenerationConfig

from optimum_flab import EvaluationSettings, FlabOptimizer, FlabPrunerConfig, evaluate
from optimum_flab.checkpoints import stored_model
from optimum_flab.checkpoints.hashes import weights_hash
from optimum_flab.evaluation.lm import FlabLM
from optimum_flab.evaluation.tasks.text import read_texts
from optimum_flab.records.plan import PruningPlan
from optimum_flab.running.generation import (
    BatchCache,
    HasStopString,
    batches_by_length,
    decode_completion,
    end_ids,
    truncate_at,
)
from optimum_flab.utils.errors import ConfigurationError, FlabError
from optimum_flab.vocabulary.usage import tokenizer_hash

from .problems import OUTPUTS, PLANS, jsonl


VOCABULARY = 600
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"
PROBLEMS = [
    {
        "task_id": f"Test/{number}",
        "prompt": f"def add_{name}(a, b):\n    '''Return the sum of {name} and b.'''\n",
        "entry_point": f"add_{name}",
        "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
    }
    for number, name in enumerate(["alpha", "beta", "gamma", "delta", "epsilon"])
]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = byte_level_tokenizer(VOCABULARY)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def dense(tokenizer):
    return tiny_model("llama", len(tokenizer), eos_token_id=tokenizer.eos_token_id)


@pytest.fixture(scope="module")
def other(tokenizer):
    """Another model of the same size."""
    model = tiny_model("llama", len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    torch.manual_seed(5)
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "prose.txt").write_text(PROSE[0], encoding="utf-8")
    texts = [{"text": text} for text in [*TEXTS[:4], *PROSE[:2]]]
    return {
        "openeval": jsonl(folder / "openeval.jsonl", PROBLEMS),
        "openeval_instruct": jsonl(folder / "chat.jsonl", PROBLEMS),
        "cruxeval_output": jsonl(folder / "outputs.jsonl", OUTPUTS),
        "cot_bleu": jsonl(folder / "plans.jsonl", PLANS),
        "recode": jsonl(folder / "clean.jsonl", PROBLEMS[:2]),
        "perplexity": jsonl(folder / "texts.jsonl", texts),
        "divergence": jsonl(folder / "held_out.jsonl", texts),
    }


@pytest.fixture
def run(data, tmp_path):
    """`evaluate` with the data of the tasks named, consent, and a cache of the test's own."""

    def call(model, *tasks, **options):
        options.setdefault("data", {task: data[task] for task in tasks if task in data})
        options.setdefault("cache_dir", tmp_path / "cache")
        options.setdefault("confirm_run_unsafe_code", True)
        options.setdefault("max_new_tokens", 12)
        asked = {name: options.pop(name) for name in EvaluationSettings.model_fields if name in options}
        return evaluate(model, EvaluationSettings(tasks=tasks, **asked), **options)

    return call


def lm_of(model, tokenizer, folder, **options) -> FlabLM:
    return FlabLM(model, tokenizer, weights_hash="w", cache=BatchCache(Path(folder)), **options)


def requests(prompts, repeats=1, **settings) -> list[Instance]:
    settings = {"until": [], "do_sample": False, "max_gen_toks": 12, **settings}
    found = []
    for number, prompt in enumerate(prompts):
        found += [Instance("generate_until", {}, (prompt, settings), 0, ("task", number, repeats))] * repeats
    return found


# --- the whole way -------------------------------------------------------------------------------------------------


def test_a_model_against_its_baseline(run, dense, other, tokenizer, tmp_path):
    tasks = ("openeval", "openeval_instruct", "cruxeval_output", "cot_bleu", "recode", "perplexity")
    found = run((other, tokenizer), *tasks, baseline=(dense, tokenizer), output=tmp_path / "results")
    rows = {(row.task, row.metric): row for row in found.scores}
    assert rows["openeval", "pass@1"].problems == 5 and rows["cruxeval_output", "exact_match"].problems == 4
    kinds = [f"pass@1[{kind}]" for kind in ("docstring_comments", "docstring_quotes", "function_name")]
    of_recode = {metric for task, metric in rows if task == "recode"}
    assert of_recode == {"clean_pass@1", "robust_pass@1", "robustness_drop", *kinds}
    assert rows["recode", "robust_pass@1"].problems == 2
    assert math.isnan(rows["openeval", "pass@1"].retention.value)
    bits = rows["perplexity", "bits_per_byte"]
    low, high = bits.retention.interval_95
    assert low <= bits.retention.value <= high and not bits.higher_is_better
    assert bits.retention.value == pytest.approx(bits.pruned.value / bits.dense.value)

    def read(*names):
        return tmp_path.joinpath("results", *names).read_text(encoding="utf-8")

    table, report = read("flab_evaluation.txt"), json.loads(read("flab_evaluation.json"))
    assert table == found.to_text() + "\n" and "not comparable" in table
    assert "note: cruxeval_output: two examples of this package, one greedy answer; a different protocol" in table
    assert report["models"]["dense"]["weights_sha256"][:12] in table
    assert set(report["protocols"]) == set(tasks) and report["settings"]["datasets"] == []
    assert report["scores"][0]["retention"] == {"value": None, "interval_95": None}
    assert report["versions"]["lm_eval"] and report["total"]["cpu_seconds"] > 0
    # only what a problem passes or not
    assert {task: one["passed"] for task, one in report["outcomes"].items()} == {
        "openeval": {"dense": "00000", "pruned": "00000"},
        "openeval_instruct": {"dense": "00000", "pruned": "00000"},
        "cruxeval_output": {"dense": "0000", "pruned": "0000"},
    }
    for role, model in (("dense", dense), ("pruned", other)):
        results = json.loads(read(role, "results.json"))
        assert set(results["results"]) == set(tasks)
        assert results["results"]["openeval"]["pass@1,executed"] == 0.0
        assert results["model"]["weights_sha256"] == report["models"][role]["weights_sha256"] == weights_hash(model)
        samples = [json.loads(line) for line in read(role, "samples_openeval.jsonl").splitlines()]
        assert [sample["doc"]["task_id"] for sample in samples] == [problem["task_id"] for problem in PROBLEMS]
        for sample in samples:
            ((verdict,),) = sample["filtered_resps"]
            assert verdict["program"] == sample["doc"]["prompt"] + sample["resps"][0][0]
            assert verdict["status"] == "failed" and verdict["detail"]


def test_results_of_a_task_do_not_depend_on_the_others_named(run, dense, tokenizer, tmp_path):
    together = run((dense, tokenizer), "cruxeval_output", "cot_bleu", cache_dir=tmp_path / "a")
    alone = run((dense, tokenizer), "cot_bleu", cache_dir=tmp_path / "b")
    assert alone.scores == tuple(row for row in together.scores if row.task == "cot_bleu")
    responses = [sample["resps"] for sample in alone.samples["model"]["cot_bleu"]]
    assert responses == [sample["resps"] for sample in together.samples["model"]["cot_bleu"]]


def test_a_second_run_reads_everything_from_the_cache(run, dense, tokenizer):
    first = run((dense, tokenizer), "cruxeval_output", "perplexity", batch_size=2)
    second = run((dense, tokenizer), "cruxeval_output", "perplexity", batch_size=2)
    assert (first.reused, second.made, second.reused) == (0, 0, first.made)
    assert first.to_text() == second.to_text()
    assert first.samples == second.samples
    third = run((dense, tokenizer), "cruxeval_output", batch_size=3)
    assert third.reused == 0


def test_two_protocols_on_the_same_problems_share_no_batch(run, dense, tokenizer, tmp_path):
    tests = ["assert f(1) == 1", "assert f(2) == 2", "assert f(3) == 3"]
    path = jsonl(tmp_path / "mbpp.jsonl", [{"task_id": 11, "text": "Return it.", "test_list": tests}])
    found = run((dense, tokenizer), "mbpp", "mbpp_zero_shot", data={"mbpp": path, "mbpp_zero_shot": path})
    assert (found.made, found.reused) == (2, 0)
    assert {row.task for row in found.scores} == {"mbpp", "mbpp_zero_shot", "programs"}
    assert found.protocols["mbpp"].startswith("as lm-eval's mbpp, with its prompt, three examples")


def test_two_configurations_of_the_same_weights_share_no_batch(run, dense, tokenizer, tmp_path):
    other = type(dense)(type(dense.config).from_dict({**dense.config.to_dict(), "rms_norm_eps": 0.1}))
    other.load_state_dict(dense.state_dict())
    other.generation_config = dense.generation_config
    first = run((dense, tokenizer), "cruxeval_output")
    second = run((other.eval(), tokenizer), "cruxeval_output")
    assert (first.reused, second.reused) == (0, 0)
    a, b = (found.models["model"] for found in (first, second))
    assert a.weights_sha256 == b.weights_sha256
    assert a.config_sha256 != b.config_sha256


def test_a_plan_of_other_models_is_passed_over_and_a_model_of_another_family_refused(run, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "pruned")
    shuffled = list(range(VOCABULARY))[::-1]
    plan = PruningPlan(
        "x", None, "0" * 64, "0" * 64, VOCABULARY, {"layer": [0, 1, 2, 3], "vocab": shuffled}, "float32", {}
    )
    plan.save(folder)
    (tmp_path / "text.txt").write_text("x = 1\n", encoding="utf-8")
    data = {"divergence": str(tmp_path / "text.txt")}
    found = run(folder, "divergence", baseline=checkpoint, data=data)
    assert next(row.own.value for row in found.scores if row.metric == "divergence") == pytest.approx(0, abs=1e-6)
    other = tiny_model("mistral", VOCABULARY), byte_level_tokenizer(VOCABULARY)
    with pytest.raises(FlabError, match="is a llama model, and .* a mistral one; name the model that it was pruned"):
        run(checkpoint, "divergence", baseline=other, data=data)


def test_a_checkpoint_has_one_hash_whatever_it_is_computed_in(run, dense, tokenizer, tmp_path):
    dense.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    for dtype in (None, "bfloat16"):
        found = run(tmp_path / "model", "cruxeval_output", dtype=dtype)
        assert found.models["model"].weights_sha256 == weights_hash(dense)
        assert found.models["model"].dtype == (dtype or "float32")
        assert found.reused == 0


def test_pass_at_k_draws_programs_that_a_seed_repeats(run, dense, tokenizer, tmp_path):
    def drawn(seed, cache):
        found = run(
            (dense, tokenizer), "openeval", samples=4, temperature=1.5, top_p=1.0, seed=seed, batch_size=4,
            cache_dir=tmp_path / cache,
        )  # fmt: skip
        assert {row.metric for row in found.scores} == {"pass@1", "pass@4"} and not found.outcomes
        return [sample["resps"][0] for sample in found.samples["model"]["openeval"]]

    first = drawn(0, "a")
    assert all(len(set(texts)) > 1 for texts in first)
    assert drawn(0, "b") == first
    assert drawn(1, "a") != first


def test_programs_that_are_not_wrong_but_fail_are_counted_under_the_table(run, dense, tokenizer, tmp_path):
    bodies = [
        "import numpy\n\ndef {}(a, b):\n    return int(numpy.add(a, b))  #",
        "def {}(a, b):\n    import yaml\n    return yaml.safe_load(str(a + b))  #",
        "def {}(a, b):\n    open('large', 'wb').write(bytes(70 << 20))  #",
        "def {}(a, b):\n    class Sum: pass\n    return Sum()  #",
    ]
    rows = [{**row, "prompt": body.format(row["entry_point"])} for row, body in zip(PROBLEMS, bodies, strict=False)]
    options = {"data": {"openeval": jsonl(tmp_path / "rows.jsonl", rows)}, "max_new_tokens": 1}
    found = run((dense, tokenizer), "openeval", **options)
    allowed = run((dense, tokenizer), "openeval", **options, allow_packages="yaml")
    lacks = (
        "note: openeval, model: 1 program counts as failed for lack of packages that the sandbox does not have: yaml"
    )
    assert found.limited == allowed.limited == {"model": {"openeval": {"size of a file": 1}}}
    for result, packages, score, digits in ((found, (), 0.25, "1000"), (allowed, ("yaml",), 0.5, "1100")):
        outcome = result.outcomes["openeval"]
        assert outcome.passed == {"model": digits}
        assert outcome.problems == tuple(problem["task_id"] for problem in PROBLEMS[:4])
        assert (result.scores[0].own.value, result.settings.allow_packages) == (score, packages)
        assert (lacks in result.to_text()) is (not packages)
        assert "note: openeval, model: 1 program counts as failed for meeting limits of the sandbox: size of" in (
            result.to_text()
        )
    assert (allowed.made, allowed.reused) == (0, found.made)


def test_divergence_is_a_task_like_the_others(run, dense, other, tokenizer):
    found = run((other, tokenizer), "divergence", baseline=(dense, tokenizer))
    rows = {row.metric: row for row in found.scores}
    assert rows["divergence"].own.value > 0
    assert "computed in float32 on pieces of at most 512 tokens" in found.protocols["divergence"]
    assert "note: divergence: over the remaining vocabulary" in found.to_text()
    assert rows["bits_per_byte"].retention.value > 0
    same = {row.metric: row for row in run((dense, tokenizer), "divergence", baseline=(dense, tokenizer)).scores}
    assert same["divergence"].own.value == pytest.approx(0, abs=1e-6)
    assert same["lost_mass"].own.value == 0
    assert same["bits_per_byte"].retention.value == pytest.approx(1)


def test_divergence_is_computed_in_float32_unless_another_format_is_named(run, dense, tokenizer, tmp_path):
    copy.deepcopy(dense).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    tokenizer.save_pretrained(tmp_path / "half")
    for asked, computed in ((None, "float32"), ("bfloat16", "bfloat16")):
        found = run(tmp_path / "half", "divergence", baseline=tmp_path / "half", dtype=asked)
        assert f"computed in {computed} on pieces" in found.protocols["divergence"]


def test_each_kind_of_text_has_its_row_beside_the_total(run, dense, other, tokenizer, data, tmp_path):
    rows = [{"question": PROSE[0], "answer": PROSE[1]}, {"question": "a", "answer": "b"}]
    prose = f"{jsonl(tmp_path / 'prose.jsonl', rows)}[question,answer]"
    sources = [data["perplexity"], prose, str(Path(data["perplexity"]).parent / "prose.txt")]
    kinds = ["texts.jsonl", "prose.jsonl[question,answer]", "prose.txt"]

    def measured(sources):
        given = dict.fromkeys(("perplexity", "divergence"), sources)
        found = run((other, tokenizer), *given, baseline=(dense, tokenizer), data=given)
        return {(row.task, row.metric): row for row in found.scores}

    rows, alone = measured(sources), measured([prose])
    for task, metrics in (
        ("perplexity", ("bits_per_byte", "byte_perplexity", "word_perplexity")),
        ("divergence", ("divergence", "bits_per_byte", "lost_mass")),
    ):
        names = [metric for of, metric in rows if of == task]
        at = names.index(metrics[0])
        assert names[at : at + 4] == [metrics[0], *(f"{metrics[0]}[{kind}]" for kind in kinds)]
        assert {name.split("[")[0] for name in names} == set(metrics) and len(names) == 12
        assert [rows[task, f"{metrics[0]}[{kind}]"].problems for kind in kinds] == [6, 2, 1]
        assert rows[task, metrics[0]].problems == 9
    assert len(alone) == 6  # a single kind is the total
    for (task, metric), row in alone.items():
        of_kind = rows[task, f"{metric}[{kinds[1]}]"]
        assert (of_kind.own.value, of_kind.problems) == (pytest.approx(row.own.value, rel=1e-4), 2)
    values = [rows["divergence", f"divergence[{kind}]"].own.value for kind in kinds]
    assert min(values) < rows["divergence", "divergence"].own.value < max(values)
    bits = [rows["perplexity", f"bits_per_byte[{kind}]"].own.value for kind in kinds]
    sizes = [sum(len(text.text.encode()) for text in read_texts("perplexity", source)) for source in sources]
    whole = sum(value * size for value, size in zip(bits, sizes, strict=True)) / sum(sizes)
    assert rows["perplexity", "bits_per_byte"].own.value == pytest.approx(whole)


def test_the_front_door_evaluates_what_it_pruned(data, tmp_path, dense, tokenizer):
    dense.save_pretrained(tmp_path / "dense")  # which also enters its class into its configuration
    tokenizer.save_pretrained(tmp_path / "dense")
    corpus = jsonl(tmp_path / "corpus.jsonl", [{"text": text} for text in TEXTS])
    optimizer = FlabOptimizer(dense, tokenizer)
    asked = {task: data[task] for task in ("cruxeval_output", "divergence")}
    settings, cache = EvaluationSettings(tasks=list(asked), data=asked), tmp_path / "cache"
    one = EvaluationSettings(tasks="cruxeval_output", data={"cruxeval_output": data["cruxeval_output"]})
    alone = optimizer.evaluate(one, cache_dir=tmp_path)
    assert set(alone.models) == {"model"}
    pruned = optimizer.prune(
        FlabPrunerConfig(data={"corpus": [corpus], "calibration_tokens": 512, "sequence_length": 64})
    )
    found = optimizer.evaluate(settings, cache_dir=cache)
    assert found.models["dense"].weights_sha256 == pruned.report.base_model.weights_sha256
    assert found.models["pruned"].weights_sha256 == pruned.report.weights_sha256
    optimizer.save_pretrained(tmp_path / "out")
    again = evaluate(tmp_path / "out", settings, baseline=tmp_path / "dense", cache_dir=cache)
    assert again.models["pruned"].weights_sha256 == pruned.report.weights_sha256
    by_metric = [{row.metric: row.own.value for row in each.scores} for each in (found, again)]
    assert by_metric[0] == pytest.approx(by_metric[1])
    assert again.made == 0  # the same weights and the same tokenizer


def test_a_task_of_the_user_is_scored_with_an_interval(run, dense, tokenizer, tmp_path):
    """Whichever of two answers a model prefers is right for every other problem: they have the same question."""
    (tmp_path / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: mine.jsonl}}\ntest_split: test\n"
        'output_type: multiple_choice\ndoc_to_text: "1+1="\ndoc_to_choice: ["2", "3"]\ndoc_to_target: right\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
        encoding="utf-8",
    )
    jsonl(tmp_path / "mine.jsonl", [{"right": number % 2} for number in range(6)])
    found = run((dense, tokenizer), "mine", data={}, include_path=tmp_path, limit=4, baseline=(dense, tokenizer))
    (row,) = found.scores
    assert (row.task, row.metric, row.problems, row.own.value) == ("mine", "acc", 4, 0.5)
    assert row.own.interval_95 == (0, 1)
    assert row.retention.value == 1


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.fixture
def no_weights(monkeypatch):
    """Reading weights is a fault."""

    def refuse(*arguments, **options):
        raise AssertionError("weights were read")

    monkeypatch.setattr(stored_model, "load_dense", refuse)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, dense, tokenizer):
    folder = tmp_path_factory.mktemp("checkpoint")
    dense.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_instruct_task_needs_a_chat_template(run, checkpoint, no_weights, tmp_path, tokenizer, dense):
    plain = byte_level_tokenizer(VOCABULARY)
    plain.chat_template = None
    dense.save_pretrained(tmp_path / "plain")
    plain.save_pretrained(tmp_path / "plain")
    with pytest.raises(FlabError) as error:
        run(checkpoint, "openeval_instruct", baseline=tmp_path / "plain")
    assert re.search("task 'openeval_instruct' needs a chat template, .*plain' has none; use the", str(error.value))
    assert error.value.exit_code == 1
    plain.chat_template = "{{ raise_exception('a system turn, please') }}"
    plain.save_pretrained(tmp_path / "plain")
    with pytest.raises(FlabError, match=r"refuses it \(a system turn, please\); use the task 'openeval'"):
        run(tmp_path / "plain", "openeval_instruct")


def test_a_tokenizer_that_does_not_fit_the_embeddings_is_refused(run, checkpoint, no_weights, tmp_path):
    tiny_model("llama", 500).save_pretrained(tmp_path / "small")
    byte_level_tokenizer(VOCABULARY).save_pretrained(tmp_path / "small")
    with pytest.raises(FlabError, match="small', as TokenizersBackend, has 600 tokens but the model embeds only 500"):
        run(checkpoint, "cruxeval_output", baseline=tmp_path / "small")


@pytest.mark.parametrize(
    ("tasks", "options", "message"),
    [
        ([], {}, "no task is named"),
        (["openeval"], {"top_p": 1.5}, "top_p: 1.5 should be less than or equal to 1"),
        (["openeval"], {"data": {"openeval": ["x", "y"]}}, "data: 2 files were given for task 'openeval'"),
        (["divergence"], {}, "task 'divergence' compares two models; name the dense one as `baseline`"),
        (["divergence"], {"baseline": "x", "data": {}}, "name a source in `data`"),
        (["openeval"], {"confirm_run_unsafe_code": False}, "`confirm_run_unsafe_code`"),
        (["openeval"], {"allow_packages": "jinja2"}, "jinja2 needs markupsafe, which must be allowed too"),
        (["openeval"], {"dtype": "int8"}, "dtype: 'int8' should be 'float32', "),
        (["openeval"], {"device": "cuda:77"}, "device 'cuda:77' cannot be used here"),
    ],
)
def test_bad_usage_is_refused_before_anything_is_loaded(run, no_weights, tmp_path, tasks, options, message):
    with pytest.raises(ConfigurationError) as error:
        run("no-such-model/at-all", *tasks, **options)
    assert message in str(error.value)
    assert error.value.exit_code == 2
    assert not (tmp_path / "cache").exists()


def test_results_that_are_there_are_not_overwritten_unless_asked(run, dense, tokenizer, no_weights, tmp_path):
    found = run((dense, tokenizer), "cruxeval_output", output=tmp_path / "results")
    before = sorted(path.name for path in (tmp_path / "results").iterdir())
    with pytest.raises(FlabError, match="results.* `overwrite`"):
        run("no-model", "cruxeval_output", output=tmp_path / "results")
    found.save(tmp_path / "results", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(FlabError, match="holds thesis.tex, which is no part of an evaluation"):
        found.save(tmp_path / "other", overwrite=True)


def test_a_pruned_model_with_tokens_of_its_own_has_no_divergence(run, dense, tokenizer):
    foreign = byte_level_tokenizer(VOCABULARY, special="<|other|>")
    with pytest.raises(FlabError, match="tokens that .* lacks \\('<\\|other\\|>', for one\\); name the model"):
        run((dense, foreign), "divergence", baseline=(dense, tokenizer))


# --- the model for lm-eval -----------------------------------------------------------------------------------------


def test_the_settings_of_a_checkpoint_do_not_leak_into_greedy_completions(dense, tokenizer, tmp_path):
    prompts = [problem["prompt"] for problem in PROBLEMS]
    plain = lm_of(dense, tokenizer, tmp_path / "a").generate_until(requests(prompts))
    own = dense.generation_config
    wild = GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=9.0, max_new_tokens=2, eos_token_id=own.eos_token_id
    )
    dense.generation_config = wild
    try:
        assert lm_of(dense, tokenizer, tmp_path / "b").generate_until(requests(prompts)) == plain
        assert dense.generation_config is wild
    finally:
        dense.generation_config = own


def test_programs_are_sampled_from_all_tokens_unless_a_task_says_otherwise(dense, tokenizer, tmp_path, monkeypatch):
    asked = []

    def new_tokens(model, tokenizer, prompts, stops, config):
        asked.append(config)
        return [[] for _ in prompts]

    monkeypatch.setattr("optimum_flab.evaluation.lm.new_tokens", new_tokens)
    lm = lm_of(dense, tokenizer, tmp_path)
    lm.generate_until(requests(["a"], do_sample=True, temperature=0.8))
    lm.generate_until(requests(["a"], do_sample=True, temperature=0.8, top_k=5, top_p=0.9))
    assert [(one.temperature, one.top_k, one.top_p) for one in asked] == [(0.8, 0, 1.0), (0.8, 5, 0.9)]


def test_greedy_completions_are_those_of_generate_cut_at_the_first_stop_string(dense, tokenizer, tmp_path):
    prompts = [problem["prompt"] for problem in PROBLEMS]
    stops = ["e", "\ndef", "return"]
    found = lm_of(dense, tokenizer, tmp_path, batch_size=1).generate_until(requests(prompts, until=stops))
    for prompt, completion in zip(prompts, found, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        output = dense.generate(**inputs, max_new_tokens=12, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        whole = tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        assert completion == truncate_at(whole, stops)
    assert any(found)


def test_a_completion_keeps_the_space_that_a_decoder_strips_from_first_tokens(dense, tokenizer):
    """As those of Llama 2 and Mistral do."""
    stripping = copy.deepcopy(tokenizer)
    stripping.backend_tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    completion = "    total = a\n    return total"
    prompt, ids = (stripping(text)["input_ids"] for text in ("def add(a):\n", completion))
    assert stripping.decode(ids) == completion[1:]
    assert decode_completion(stripping, prompt, ids, end_ids(dense, stripping)) == (completion, False)


def test_a_row_ends_once_its_new_text_holds_a_stop_string(tokenizer):
    stop = HasStopString(tokenizer, ["\n    return"], start=3)
    rows = [tokenizer.encode(text) for text in ("x = 1\n    return", "x = 1\n    retur", "\n    return x = 1, 2")]
    start = [tokenizer.encode("\n    return")[-1]] * 3  # the prompt may hold one
    longest = max(map(len, rows))
    done = None
    for length in range(1, longest + 1):
        ids = [start + (row + [tokenizer.pad_token_id] * longest)[:length] for row in rows]
        done = stop(torch.tensor(ids), None)
    assert done.tolist() == [True, False, True]


def test_batches_are_of_like_length_and_hold_every_prompt_once():
    prompts = [[1] * length for length in (3, 9, 3, 1, 9)]
    assert batches_by_length(prompts, 2) == [[1, 4], [0, 2], [3]]
    assert batches_by_length([], 2) == []


def test_prompts_that_are_too_long_keep_their_end(dense, tokenizer, tmp_path):
    lm = lm_of(dense, tokenizer, tmp_path)
    prompt = "def f():" + " x" * 3000 + " = 1"
    ids = tokenizer(prompt).input_ids
    (batch,) = lm.generation_batches(requests([prompt], max_gen_toks=10))
    assert batch.prompts[0] == ids[10 - lm.max_length :]
    (batch,) = lm.generation_batches(requests([prompt], max_gen_toks=100_000))
    assert batch.prompts[0] == ids[-(lm.max_length // 2) :]
    assert isinstance(lm.generate_until(requests([prompt]))[0], str)


def test_likelihoods_are_those_of_lm_eval(dense, tokenizer, tmp_path):
    pairs = [(prompt, f" {word}") for prompt in ("def f(", "x =", "total") for word in ("a", "the value", "b")]
    asked = [Instance("loglikelihood", {}, pair, 0, ("task", 0, 1)) for pair in pairs]
    ours = lm_of(dense, tokenizer, tmp_path, batch_size=2).loglikelihood(asked)
    theirs = HFLM(pretrained=dense, tokenizer=tokenizer, batch_size=2).loglikelihood(asked)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], rel=1e-4)


def test_the_likelihood_of_a_long_text_counts_every_token_once(dense, tokenizer, tmp_path):
    text = "\n".join(TEXTS[:6])
    lm = lm_of(dense, tokenizer, tmp_path, batch_size=2)
    asked = [Instance("loglikelihood_rolling", {}, (each,), 0, ("task", 0, 1)) for each in ("total = a", text)]
    short, long = lm.loglikelihood_rolling(asked)
    ids = [lm.prefix_token_id, *tokenizer.encode("total = a")]
    logits = torch.log_softmax(dense(torch.tensor([ids])).logits[0], dim=-1)
    assert short == pytest.approx(sum(float(logits[i, token]) for i, token in enumerate(ids[1:])), rel=1e-4)
    assert len(tokenizer.encode(text)) > lm.max_length
    assert long < 20 * short


def test_a_cached_batch_that_is_damaged_is_made_again(tmp_path):
    cache = BatchCache(tmp_path)
    assert cache.get({"a": 1}, lambda: ["x"]) == ["x"]
    assert cache.get({"a": 1}, lambda: ["y"]) == ["x"]
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_text("[", encoding="utf-8")
    assert cache.get({"a": 1}, lambda: ["z"]) == ["z"]
    assert (cache.made, cache.reused) == (2, 1)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".safetensors"]


def test_what_an_earlier_run_stored_is_made_anew_where_that_is_asked_for(tmp_path):
    assert BatchCache(tmp_path).get({"a": 1}, lambda: ["old"]) == ["old"]
    assert BatchCache(tmp_path).get({"a": 1}, lambda: ["new"]) == ["old"]
    anew = BatchCache(tmp_path, reuse=False)
    assert anew.get({"a": 1}, lambda: ["new"]) == ["new"] and (anew.made, anew.reused) == (1, 0)
    assert BatchCache(tmp_path).get({"a": 1}, lambda: []) == ["new"]


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    cache = BatchCache(tmp_path / "file" / "cache")
    with pytest.raises(FlabError, match="cannot be written .*name another place"):
        cache.get({}, list)


def test_the_hash_of_a_tokenizer_ignores_what_calls_leave_behind(tokenizer):
    fresh = byte_level_tokenizer(VOCABULARY)
    before = tokenizer_hash(fresh)
    fresh(["a", "a b c"], padding=True, truncation=True, max_length=4)
    assert tokenizer_hash(fresh) == before
    fresh.chat_template = "x"
    assert tokenizer_hash(fresh) != before


# --- interruption --------------------------------------------------------------------------------------------------


def test_a_killed_evaluation_goes_on_where_it_was_and_ends_with_the_same_table(
    run, dense, other, tokenizer, tmp_path, monkeypatch
):
    tasks, options = ("openeval", "cruxeval_output"), {"baseline": (dense, tokenizer), "batch_size": 1}
    whole = run((other, tokenizer), *tasks, cache_dir=tmp_path / "whole", **options)
    assert (whole.made, whole.reused) == (2 * (len(PROBLEMS) + len(OUTPUTS)), 0)
    complete, done = FlabLM._complete, []

    def killed(lm, batch):
        if len(done) == 11:
            raise KeyboardInterrupt
        done.append(batch)
        return complete(lm, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FlabLM, "_complete", killed)
        run((other, tokenizer), *tasks, **options)
    again = run((other, tokenizer), *tasks, **options)
    assert (again.made, again.reused) == (whole.made - 11, 11)
    assert (again.to_text(), again.samples) == (whole.to_text(), whole.samples)
