"""A model that is pruned, trained, and pruned again: what is written is about the dense model all the same."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from optimum_flab import ConfigurationError, FlabOptimizer, FlabPrunerConfig
from optimum_flab.checkpoints.hashes import weights_hash
from optimum_flab.families.files import known_family
from optimum_flab.pruning.limits import TOLERANCE
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.plan import PruningPlan
from optimum_flab.records.summary import report_summary
from optimum_flab.rounds import composed, one_round
from optimum_flab.settings.pruning import LEAST_OF_A_ROUND
from optimum_flab.texts.sets import read_text_sets
from optimum_flab.vocabulary.rewrite import count_changed_texts
from optimum_flab.vocabulary.usage import tokenizer_hash

from ..conftest import plan_of
from .conftest import SMALL


def config_of(made, **changes) -> FlabPrunerConfig:
    written = json.loads((made / "pruned" / "flab_config.json").read_text())
    recovery = {**SMALL, "data": [str(made / "alpaca.json")], "answers": "reference", "max_steps": 4}
    data = {**written["data"], "mix": {"own": 0.9, "infilling": 0.1}}  # the tokenizer has no tokens for gaps
    asked = {**written, "data": data, "recovery": recovery, "rounds": {"number": 2}}
    return FlabPrunerConfig.from_dict({**asked, **changes})


@pytest.fixture(scope="module")
def in_rounds(_made, tmp_path_factory):
    """A model that was pruned in two rounds, and its folder."""
    folder = tmp_path_factory.mktemp("rounds")
    optimizer = FlabOptimizer.from_pretrained(_made / "dense")
    optimizer.prune_and_recover(config_of(_made), cache_dir=folder / "cache")
    optimizer.save_pretrained(folder / "out")
    return optimizer, folder


def test_two_rounds_remove_what_was_asked_for_and_say_so(in_rounds, _made):
    _, folder = in_rounds
    report = Checkpoint(folder / "out").report
    (first,) = report.earlier_rounds
    assert report.target_ratio == 0.4 and report.removed_ratio == pytest.approx(0.4, abs=0.01)
    assert first.target_ratio == 0.2 and first.removed_ratio == pytest.approx(0.2, abs=0.01)
    assert first.pruned.parameters > report.pruned.parameters
    assert report.base_model.name == str(_made / "dense")
    assert (first.recovery.training.steps_done, report.recovery.training.steps_done) == (1, 4)
    assert report.held_out == report.recovery.held_out_after
    # both trainings measure against the dense model, on the same text
    before, after = first.recovery.held_out_after, report.recovery.held_out_before
    assert (before.texts, before.dense_bits_per_byte) == (after.texts, after.dense_bits_per_byte)
    body = 1 - first.pruned.body_parameters / report.dense.body_parameters
    assert f"Round 1: {first.removed_ratio:.1%} removed ({body:.1%} of the body)." in report_summary(report)
    written = json.loads((folder / "out" / "flab_config.json").read_text())
    assert (written["target_ratio"], written["rounds"]["number"]) == (0.4, 2)


def test_texts_and_notes_of_two_rounds_are_about_the_dense_tokenizer(in_rounds, _made):
    optimizer, folder = in_rounds
    report, dense, config = Checkpoint(folder / "out").report, optimizer.dense.tokenizer, config_of(_made)
    corpus = read_text_sets(dense, config.data, config.seed).corpus
    kept = np.array(PruningPlan.load(folder / "out").kept_tokens)
    changed = count_changed_texts(dense, optimizer.pruned.tokenizer, kept, [document.text for document in corpus])
    assert (report.texts.corpus, report.texts.corpus_cut_differently) == (len(corpus), changed)
    assert any("'infilling' is left out" in note for note in report.notes)


def test_rounds_after_the_first_choose_among_what_it_kept():
    config = FlabPrunerConfig(target_ratio=0.4, vocabulary={"coverage": 0.9, "min_count": 3, "keep_used": True})
    first, second = one_round(config, 0.2), one_round(config, 0.2, first=False)
    assert first.vocabulary == config.vocabulary
    assert (second.vocabulary.coverage, second.vocabulary.min_count, second.vocabulary.keep_used) == (1, 1, True)


def test_the_plan_of_two_rounds_gives_of_the_dense_model_what_the_last_training_began_with(in_rounds, _made):
    _, folder = in_rounds
    plan, section = PruningPlan.load(folder / "out"), Checkpoint(folder / "out").report.recovery
    applied = FlabOptimizer.from_pretrained(_made / "dense").apply(plan)
    assert weights_hash(applied.model) == section.pruned_weights_sha256
    assert any("trained between" in note for note in applied.report.notes)
    loaded = FlabOptimizer.from_pretrained(_made / "dense").load_pruned(folder / "out")
    assert tokenizer_hash(applied.tokenizer) == tokenizer_hash(loaded.tokenizer)
    assert weights_hash(loaded.model) == loaded.report.weights_sha256 != section.pruned_weights_sha256
    streamed = FlabOptimizer.from_pretrained(_made / "dense", in_memory=False)
    streamed.apply(plan)
    streamed.save_pretrained(folder / "streamed")
    assert Checkpoint(folder / "streamed").report.weights_sha256 == section.pruned_weights_sha256
    # embeddings that were not trained are cut, not stored
    assert plan.weights and not any("embed" in name for name in plan.weights)


@pytest.mark.thorough
def test_rounds_that_were_killed_go_on_to_the_same_bytes(in_rounds, _made, monkeypatch, tmp_path):
    from optimum_flab import rounds

    own, calls = rounds.recover, []

    def killed_in_the_second(*args, **kwargs):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return own(*args, **kwargs)

    monkeypatch.setattr(rounds, "recover", killed_in_the_second)
    optimizer = FlabOptimizer.from_pretrained(_made / "dense")
    with pytest.raises(KeyboardInterrupt):
        optimizer.prune_and_recover(config_of(_made), cache_dir=tmp_path / "cache")
    monkeypatch.undo()
    again = optimizer.prune_and_recover(config_of(_made), cache_dir=tmp_path / "cache")
    assert weights_hash(again.model) == weights_hash(in_rounds[0].pruned.model)


def test_rounds_need_a_target_and_a_training(_made):
    for changes, message in (
        ({"target_ratio": None}, "divide a target_ratio; set only that"),
        ({"ffn": {"intermediate_size": 32}}, "and no size"),
        ({"recovery": None}, "need a recovery after each; name `recovery.data`"),
        ({"target_ratio": 0.04, "rounds": {"number": 5}}, "remove less than 0.01 of all parameters each"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            config_of(_made, **changes)
    assert config_of(_made, target_ratio=0.02).target_ratio == 0.02
    # a round that misses its share by all that is allowed leaves as much to the next
    assert LEAST_OF_A_ROUND >= 2 * TOLERANCE
    with pytest.raises(ConfigurationError, match="call `prune_and_recover`"):
        FlabOptimizer.from_pretrained(_made / "dense").prune(config_of(_made))


def test_files_of_counts_are_refused_in_rounds(_made):
    config = config_of(_made)
    config.data.counts = ["counts.npz"]
    with pytest.raises(ConfigurationError, match="name a corpus in place of `data.counts`"):
        FlabOptimizer.from_pretrained(_made / "dense").prune_and_recover(config)


def test_what_a_training_would_refuse_is_refused_before_the_pruning(_made, tmp_path):
    recovery = {**SMALL, "data": [str(_made / "problems.jsonl")]}
    optimizer = FlabOptimizer.from_pretrained(_made / "dense")
    with pytest.raises(ConfigurationError, match="`confirm_run_unsafe_code`"):
        optimizer.prune_and_recover(config_of(_made, recovery=recovery), cache_dir=tmp_path / "cache")
    optimizer.dense = replace(optimizer.dense, family=known_family("mixtral"))
    recovery |= {"method": "full", "rank": None, "answers": "reference"}
    with pytest.raises(ConfigurationError, match="does not train mixtures of experts, such as mixtral"):
        optimizer.prune_and_recover(config_of(_made, recovery=recovery), cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_plans_one_after_the_other_keep_what_both_keep():
    first = plan_of(
        [0, 2, 4, 6],
        [0, 1, 3],
        {0: [1, 2, 5], 1: [0, 3, 4], 3: [2, 3, 7]},
        kept_inside={"head": {0: [0, 2], 1: [1, 2], 3: [0, 3]}},
        base_hash="dense",
    )
    second = plan_of(
        [1, 3],
        [0, 2],
        {0: [0, 2], 2: [1, 2]},
        kept_inside={"head": {0: [1], 2: [0]}},
        weights={"x": torch.ones(1)},
        base_hash="trained",
    )
    both = composed(first, second)
    assert (both.kept_tokens, both.kept_layers, both.base_hash) == ([2, 6], [0, 3], "dense")
    assert both.kept["neuron"] == {0: [1, 5], 3: [3, 7]} and not both.weights
    assert both.kept["head"] == {0: [2], 3: [0]}
    untouched = composed(first, plan_of(None, [1], {}))
    assert (untouched.kept_tokens, untouched.kept_layers, untouched.kept["neuron"]) == (
        [0, 2, 4, 6],
        [1],
        {1: [0, 3, 4]},
    )


def test_plans_of_mixtures_keep_the_neurons_of_the_experts_that_stay():
    first = plan_of(
        None,
        [0, 1],
        {0: [[0, 1], [2, 3], [1, 3]], 1: [[0, 2], [0, 3], [1, 2]]},
        kept_experts={
            0: [0, 2, 3],
            1: [1, 2, 3],
        },
    )
    second = plan_of(None, [0, 1], {0: [[1], [0]], 1: [[0], [1]]}, kept_experts={0: [0, 2], 1: [1, 2]})
    both = composed(first, second)
    assert both.kept["expert"] == {0: [0, 3], 1: [2, 3]}
    assert both.kept["neuron"] == {0: [[1], [1]], 1: [[0], [2]]}
    narrowed = composed(plan_of(None, [0, 1], {}), second)
    assert (narrowed.kept["expert"], narrowed.kept["neuron"]) == (second.kept["expert"], second.kept["neuron"])
