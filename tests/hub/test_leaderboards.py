"""Scores in the form that the Hub collects: only of benchmarks, only of these weights."""

from __future__ import annotations

import json

import pytest
import yaml
from hub.client import push
from hub.conftest import evaluation_of
from hub.test_push import LICENSED, NAME
from huggingface_hub import parse_eval_result_entries
from huggingface_hub.constants import EVAL_RESULTS_FOLDER

from optimum_flab.hub.card import render_card
from optimum_flab.hub.facts import Facts, Results
from optimum_flab.hub.leaderboards import FOLDER, comparable_scores, matching_task
from optimum_flab.hub.measured import HubDataset, MeasuredScores
from optimum_flab.hub.ownership import metadata_of
from optimum_flab.hub.staging import stage


HUMANEVAL = "openai/openai_humaneval"
BENCHMARK = (
    "name: HumanEval\nevaluation_framework: inspect-ai\ntasks:\n- id: humaneval\n  config: default\n  split: test\n"
)


def evaluation(report, **changes):
    """One on the problems of the Hub's dataset."""
    settings = {"limit": None, "samples": 1, "data": {}, "task_datasets": {"humaneval": {"id": HUMANEVAL}}, **changes}
    versions = {"optimum-flab": "0.1", "lm_eval": "0.4.13"}
    return evaluation_of(report, settings=settings, date="2026-01-31", versions=versions)


@pytest.fixture
def evaluated(pruned, report):
    (pruned / "flab_evaluation.json").write_text(json.dumps(evaluation(report)), encoding="utf-8")
    return pruned


def results_of(evaluations):
    return comparable_scores(
        Facts(None, None, None, Results(tuple(map(MeasuredScores.model_validate, evaluations))), ())
    )


def test_a_score_on_a_benchmark_is_sent_as_the_specification_asks(evaluated, hub, client):
    hub.benchmarks[HUMANEVAL] = BENCHMARK
    found = client(push, str(evaluated), NAME, **LICENSED).result()
    path = f"{EVAL_RESULTS_FOLDER}/flab_humaneval.yaml"
    assert path in found.changes.send and FOLDER == EVAL_RESULTS_FOLDER
    data = yaml.safe_load(hub.files(NAME)[path])
    assert data == [
        {
            "dataset": {"id": HUMANEVAL, "task_id": "humaneval"},
            "value": 39.0,
            "date": "2026-01-31",
            "source": {
                "url": f"https://huggingface.co/{NAME}/tree/main",
                "name": "The model's card, with intervals and settings",
            },
            "notes": "pass@1, greedy, task humaneval, optimum-flab 0.1, lm_eval 0.4.13",
        }
    ]
    (entry,) = parse_eval_result_entries(data)
    assert (entry.dataset_id, entry.task_id, entry.value, entry.verify_token) == (HUMANEVAL, "humaneval", 39.0, None)
    assert client(push, str(evaluated), NAME, **LICENSED).result().changes.send == ()


def test_scores_of_older_weights_do_not_stay(evaluated, hub, client):
    hub.benchmarks[HUMANEVAL] = BENCHMARK
    client(push, str(evaluated), NAME, **LICENSED).result()
    repository = hub.repositories[NAME]
    theirs = {**repository.commits[repository.branches["main"]], ".eval_results/theirs.yaml": hub.blob(b"[]")}
    repository.commit("main", theirs)
    (evaluated / "flab_evaluation.json").unlink()
    found = client(push, str(evaluated), NAME, **LICENSED).result()
    assert set(found.changes.delete) == {"flab_evaluation.json", ".eval_results/flab_humaneval.yaml"}
    assert ".eval_results/theirs.yaml" in found.changes.keep


@pytest.mark.parametrize("benchmarks", [{}, {"openai/openai_humaneval_plus": BENCHMARK}, {HUMANEVAL: "tasks: []"}])
def test_a_dataset_that_is_no_benchmark_gets_no_entry(evaluated, hub, client, benchmarks):
    hub.benchmarks |= benchmarks
    client(push, str(evaluated), NAME, **LICENSED).result()
    assert not any(path.startswith(FOLDER) for path in hub.files(NAME))


def test_a_model_that_was_not_evaluated_asks_for_no_benchmark(pruned, hub, client):
    client(push, str(pruned), NAME, **LICENSED).result()
    assert not any("/api/datasets" in path for _, path in hub.requests)


@pytest.mark.parametrize(
    ("content", "dataset", "task"),
    [
        (BENCHMARK, {"id": HUMANEVAL}, "humaneval"),
        (BENCHMARK, {"id": HUMANEVAL, "config": "other"}, None),
        (BENCHMARK, {"id": HUMANEVAL, "split": "train"}, None),
        ("tasks:\n- id: a\n- id: b\n", {"id": HUMANEVAL}, None),
        ("tasks:\n- id: a\n  config: x\n- id: b\n  config: y\n", {"id": HUMANEVAL, "config": "y"}, "b"),
        ("tasks: text", {"id": HUMANEVAL}, None),
        ("tasks:\n- 3\n- id: 4\n", {"id": HUMANEVAL}, None),
        ("a: [", {"id": HUMANEVAL}, None),
    ],
)
def test_the_task_of_a_benchmark(content, dataset, task):
    assert matching_task(content, HubDataset(**dataset)) == task


def test_only_scores_of_all_problems_of_a_dataset_are_compared(report):
    assert [found.task for found in results_of([evaluation(report)])] == ["humaneval"]
    assert results_of([evaluation(report, limit=20)]) == []
    assert results_of([evaluation(report, task_datasets={})]) == []
    everywhere = {task: {"id": HUMANEVAL} for task in ("humaneval", "perplexity", "recode")}
    assert [found.task for found in results_of([evaluation(report, task_datasets=everywhere)])] == ["humaneval"]
    drawn = evaluation(report, samples=10, temperature=0.8)
    drawn["scores"].append({**drawn["scores"][0], "metric": "pass@10"})
    (found,) = results_of([drawn])
    assert found.notes.startswith("pass@1, 10 samples per problem at temperature 0.8, task humaneval")
    two = evaluation(report)
    two["scores"] = [{**two["scores"][0], "metric": f"exact_match,{name}"} for name in ("strict", "flexible")]
    assert results_of([two]) == []


def test_the_model_index_names_the_dataset_of_the_hub_or_the_users_file(pruned, report):
    def datasets(content):
        (pruned / "flab_evaluation.json").write_text(json.dumps(content), encoding="utf-8")
        data = metadata_of(str(render_card(pruned, NAME).card))
        return [result["dataset"] for result in data["model-index"][0]["results"]]

    full = {"id": "google-research-datasets/mbpp", "config": "full", "split": "test"}
    content = evaluation(report, task_datasets={"humaneval": full})
    assert datasets(content)[0] == {
        "name": "humaneval",
        "type": "google-research-datasets/mbpp",
        "config": "full",
        "split": "test",
        "args": {"problems": 164},
    }
    own = evaluation(report, data={"humaneval": ["/data/mine.jsonl"]}, task_datasets={}, limit=5)
    assert [(found["name"], found["type"]) for found in datasets(own)] == [
        ("humaneval (mine.jsonl, first 5 problems)", "humaneval"),
        ("perplexity (first 5 problems)", "perplexity"),
    ]
    assert stage(pruned, NAME).card.count("/data/") == 0
