"""The whole way on a tiny model: real data files, real sandbox, real training, real checkpoints."""

import errno
import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, get_scheduler

from optimum_flab import ConfigurationError, FlabError, FlabOptimizer, FlabPrunerConfig, RecoveryConfig
from optimum_flab.checkpoints.hashes import weights_hash
from optimum_flab.families.files import known_family
from optimum_flab.records.report import RecoveryEstimate, report_text
from optimum_flab.recovery import data as data_room
from optimum_flab.recovery import preparation
from optimum_flab.recovery.checks import check_method
from optimum_flab.recovery.instructions import read_instructions
from optimum_flab.recovery.lora import with_lora
from optimum_flab.recovery.methods import NamesInCheckpoints, trainable
from optimum_flab.recovery.sizes import training_sizes
from optimum_flab.recovery.trainer import RecoveryTrainer
from optimum_flab.recovery.training import last_checkpoint, number_format, training_arguments
from optimum_flab.recovery.work import Steps, Work
from optimum_flab.running.casting import copy_in
from optimum_flab.settings.recovery import RecoverySettings, check_recovery

from ..conftest import thorough_but, tiny_model
from .conftest import problems, write_lines


SMALL = {
    "template": "plain",
    "sequence_length": 96,
    "max_new_tokens": 24,
    "rank": 4,
    "learning_rate": 5e-3,
    "max_steps": 8,
    "batch_size": 4,
    "evaluations": 2,
    "dtype": "float32",
    "validation_share": 0.2,
    "closed_form_tokens": 1024,
    "text_share": 0.0,
}
FULL = {"method": "full", "learning_rate": 5e-4}


def optimizer_for(made) -> FlabOptimizer:
    optimizer = FlabOptimizer.from_pretrained(made / "dense")
    optimizer.load_pruned(made / "pruned")
    return optimizer


def config_for(made, *, data=("problems.jsonl", "alpaca.json"), **changes) -> RecoveryConfig:
    return RecoveryConfig(**{"data": [str(made / name) for name in data], **SMALL, **changes})


def run(made, cache="cache", **changes):
    optimizer = optimizer_for(made)
    optimizer.recover(config_for(made, **changes), confirm_run_unsafe_code=True, cache_dir=made / cache)
    return optimizer


def test_recovery_gives_a_stock_checkpoint_nearer_to_the_dense_model(made):
    optimizer = run(made)
    optimizer.save_pretrained(made / "recovered")
    loaded = AutoModelForCausalLM.from_pretrained(made / "recovered")
    before = AutoModelForCausalLM.from_pretrained(made / "pruned")
    report = json.loads((made / "recovered" / "flab_report.json").read_text())
    section = report["recovery"]
    assert section["held_out_after"]["divergence"] < section["held_out_before"]["divergence"]
    assert report["held_out"] == section["held_out_after"]
    of_pruning = json.loads((made / "pruned" / "flab_report.json").read_text())["held_out"]
    assert of_pruning["by_kind"] and section["pruning_held_out"] == of_pruning
    assert not section["held_out_before"]["by_kind"]  # which is on other text
    assert report["weights_sha256"] == weights_hash(loaded) != weights_hash(before)
    assert {k: tuple(v.shape) for k, v in loaded.state_dict().items()} == {
        k: tuple(v.shape) for k, v in before.state_dict().items()
    }
    for name in ("config.json", "generation_config.json", "flab_plan.json", "tokenizer.json", "flab_config.json"):
        assert (made / "recovered" / name).read_bytes() == (made / "pruned" / name).read_bytes(), name
    assert AutoTokenizer.from_pretrained(made / "recovered").chat_template
    assert (made / "recovered" / "flab_recovery_loss.png").read_bytes()[:4] == b"\x89PNG"
    assert section["data"]["examples"] == 48
    assert section["datasets"] == []
    assert sum(section["data"]["answers"].values()) <= 48
    assert section["estimate"]["memory_bytes"] > 0


def test_the_adapter_alone_makes_the_pruned_model_the_recovered_one(made):
    with pytest.raises(ConfigurationError, match="`recovery.closed_form`"):
        run(made, keep_adapter=True)
    optimizer = run(made, keep_adapter=True, closed_form=False)
    optimizer.save_pretrained(made / "recovered")
    base = AutoModelForCausalLM.from_pretrained(made / "pruned")
    with_adapter = PeftModel.from_pretrained(base, made / "recovered" / "adapter").merge_and_unload()
    for name, tensor in optimizer.pruned.model.state_dict().items():
        torch.testing.assert_close(with_adapter.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)
    for file in (made / "recovered" / "adapter").iterdir():
        assert str(made).encode() not in file.read_bytes(), file


@pytest.mark.parametrize(
    "method",
    [pytest.param({}, marks=pytest.mark.thorough), {**FULL, "answers": "reference"}],
    ids=["lora", "full"],
)
def test_a_run_that_was_killed_goes_on_to_the_same_weights(made, monkeypatch, method, capsys):
    whole = run(made, **method)
    steps = []
    own_step = RecoveryTrainer.training_step

    def killed_in_step_six(trainer, *args, **kwargs):
        steps.append(trainer.state.global_step)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return own_step(trainer, *args, **kwargs)

    monkeypatch.setattr(RecoveryTrainer, "training_step", killed_in_step_six)
    with pytest.raises(KeyboardInterrupt):
        run(made, cache="other", **method)
    steps.clear()
    monkeypatch.setattr(
        RecoveryTrainer, "training_step", lambda trainer, *a, **k: steps.append(0) or own_step(trainer, *a, **k)
    )
    again = run(made, cache="other", **method)
    assert "the training resumes after step 4" in capsys.readouterr().err
    assert len(steps) == 4  # of 8: the first four were in the checkpoint
    run(made, cache="other", **method)
    assert len(steps) == 4  # a training that was finished is not done again
    assert not list((made / "other").rglob("checkpoint-*"))
    assert weights_hash(again.pruned.model) == weights_hash(whole.pruned.model)
    assert again.pruned.report.recovery.training == whole.pruned.report.recovery.training
    assert again.pruned.report.recovery.training.best_loss < again.pruned.report.recovery.training.start_loss


@pytest.mark.thorough
def test_early_stopping_counts_on_where_a_killed_run_was(made, monkeypatch):
    """The loss on the rows set aside is scripted: better once, then never again."""
    loop = RecoveryTrainer.evaluation_loop

    def scripted(self, *arguments, **options):
        output = loop(self, *arguments, **options)
        output.metrics["eval_loss"] = 1.0 if self.state.global_step == 2 else 2.0
        return output

    monkeypatch.setattr("optimum_flab.recovery.training.loss_of", lambda trainer, rows: 5.0)
    monkeypatch.setattr(RecoveryTrainer, "evaluation_loop", scripted)
    wanted = {"max_steps": 16, "evaluations": 8, "patience": 3, "answers": "reference"}
    whole = run(made, cache="a", **wanted).pruned.report.recovery
    save = RecoveryTrainer._save_checkpoint

    def killed(self, *arguments, **options):
        save(self, *arguments, **options)
        if self.state.global_step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RecoveryTrainer, "_save_checkpoint", killed)
        run(made, cache="b", **wanted)
    resumed = run(made, cache="b", **wanted).pruned.report.recovery
    assert (whole.training.steps_done, whole.training.best_step) == (8, 2)
    assert (resumed.training.steps_done, resumed.training.best_step) == (8, 2)


def test_text_set_aside_to_measure_on_shares_no_passage_with_what_is_trained_on(made):
    rows = [
        {"instruction": f"Number {n}: write it.", "output": " ".join(f"word{w}" for w in range(30)) + f" {n}"}
        for n in range(20)
    ]
    other = [
        {"instruction": f"Make {n}.", "output": f"def f{n}(): return {' + '.join(str(n * k) for k in range(1, 20))}"}
        for n in range(20)
    ]
    (made / "near.json").write_text(json.dumps(rows + other), encoding="utf-8")
    plan_without_text = made / "pruned" / "flab_plan.json"
    plan = json.loads(plan_without_text.read_text())
    plan["settings"]["data"]["held_out"] = []
    plan_without_text.write_text(json.dumps(plan))
    counts = run(made, data=("near.json",), answers="reference", max_steps=2).pruned.report.recovery.data
    assert counts.dropped["overlapping text set aside"] >= 15


def test_matrices_of_a_head_that_shares_its_weights_are_refused(made):
    with pytest.raises(ConfigurationError, match="lm_head shares its weights with the embeddings"):
        run(made, targets=["lm_head", "q_proj"], answers="reference")


def test_all_weights_but_embeddings_are_trained_and_a_stock_checkpoint_is_written(made):
    optimizer = run(made, **FULL, closed_form=False, answers="reference")
    optimizer.save_pretrained(made / "recovered")
    loaded = AutoModelForCausalLM.from_pretrained(made / "recovered").state_dict()
    before = AutoModelForCausalLM.from_pretrained(made / "pruned").state_dict()
    assert {name for name in before if torch.equal(before[name], loaded[name])} == {
        "model.embed_tokens.weight",
        "lm_head.weight",
    }
    section = optimizer.pruned.report.recovery
    assert section.held_out_after.divergence < section.held_out_before.divergence
    assert RecoveryConfig(**section.settings).method == "full"


@pytest.mark.thorough
def test_the_learning_rate_of_the_method_is_taken_and_written_down(made):
    assert RecoveryConfig().largest_rate == 10 * RecoveryConfig(method="full").largest_rate == 2e-4
    section = run(made, method="full", learning_rate=None, max_steps=1, answers="reference").pruned.report.recovery
    assert section.settings["learning_rate"] == 2e-5


def test_the_learning_rate_rises_and_falls_along_a_cosine_to_its_floor():
    settings = RecoveryConfig(learning_rate=1.0, final_rate_share=0.25, warmup_share=0.1, max_steps=100)
    arguments = training_arguments(settings, training_sizes(settings, 10), Path("x"), torch.device("cpu"))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=arguments.learning_rate)
    scheduler = get_scheduler(
        arguments.lr_scheduler_type, optimizer, 10, 100, scheduler_specific_kwargs=arguments.lr_scheduler_kwargs
    )
    rates = []
    for _ in range(101):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == 0 and rates[10] == 1 and rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx((1 + 0.25) / 2) and rates[100] == pytest.approx(0.25)


@pytest.mark.parametrize(
    "changes", [{"targets": ["q_proj"]}, {"alpha": 8.0}, {"dropout": 0.1}, {"keep_adapter": True}]
)
def test_what_belongs_to_lora_is_refused_where_all_weights_are_trained(changes):
    (name,) = changes
    with pytest.raises(ConfigurationError, match=f"recovery.{name}: applies to LoRA"):
        check_recovery(RecoveryConfig(method="full", **changes))


def test_all_weights_are_not_trained_where_memory_lacks_or_experts_are():
    much, little = (RecoveryEstimate(memory_bytes=memory, disk_bytes=0, seconds=1.0) for memory in (10**14, 1000))
    with pytest.raises(FlabError, match="training all weights takes about .* GB are available; use `recovery.method`"):
        preparation._check_memory(much, torch.device("cpu"))
    preparation._check_memory(little, torch.device("cpu"))
    mixture, llama = (known_family(name) for name in ("mixtral", "llama"))
    with pytest.raises(ConfigurationError, match="does not train mixtures of experts, such as mixtral"):
        check_method(RecoveryConfig(method="full"), mixture)
    check_method(RecoveryConfig(method="full"), llama)
    check_method(RecoveryConfig(), mixture)


def test_a_checkpoint_that_lacks_what_is_trained_ends_the_training(tmp_path):
    model = tiny_model("qwen2").requires_grad_(True)
    model.save_pretrained(tmp_path / "checkpoint-2")
    arguments, state = SimpleNamespace(output_dir=tmp_path), SimpleNamespace(global_step=2, is_world_process_zero=True)
    NamesInCheckpoints().on_save(arguments, state, None, model=model)
    model.extra = torch.nn.Linear(1, 1)
    with pytest.raises(ConfigurationError, match="other names for 2 weights, extra.bias among them; use 'lora'"):
        NamesInCheckpoints().on_save(arguments, state, None, model=model)


def test_what_is_trained_is_held_in_float32(made):
    optimizer = optimizer_for(made)
    model = with_lora(
        copy_in(optimizer.pruned.model, torch.device("cpu"), torch.bfloat16),
        RecoverySettings(**SMALL | {"train_embeddings": True}),
    )
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    full = trainable(optimizer.pruned.model, RecoverySettings(method="full"), torch.device("cpu"), torch.bfloat16)
    assert {p.dtype for p in full.parameters()} == {torch.float32}
    assert {name for name, p in full.named_parameters() if not p.requires_grad} == {"model.embed_tokens.weight"}


def test_a_checkpoint_that_was_not_written_whole_is_not_gone_on_from(tmp_path):
    for step, whole in ((2, True), (4, True), (6, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text("{}" if whole else '{"glob')
    (tmp_path / "checkpoint-8").mkdir()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.thorough
def test_a_loss_that_becomes_nan_stops_and_keeps_the_last_good_checkpoint(made, monkeypatch):
    own_loss = RecoveryTrainer.loss

    def broken_from_step_seven(trainer, logits, inputs):
        loss = own_loss(trainer, logits, inputs)
        return loss * float("nan") if trainer.state.global_step >= 6 else loss

    monkeypatch.setattr(RecoveryTrainer, "loss", broken_from_step_seven)
    optimizer = run(made)
    training = optimizer.pruned.report.recovery.training
    assert training.best_step == 4
    (note,) = optimizer.pruned.report.recovery.notes
    assert "NaN at step 7" in note and "step 4 is kept" in note and "learning rate" in note
    assert all(torch.isfinite(tensor).all() for tensor in optimizer.pruned.model.state_dict().values())
    monkeypatch.undo()
    short = run(made, max_steps=8, patience=1)
    assert weights_hash(short.pruned.model) != weights_hash(optimizer.pruned.model)


@pytest.mark.thorough
def test_a_loss_that_is_nan_from_the_start_leaves_the_model_as_it_was(made, monkeypatch):
    monkeypatch.setattr(RecoveryTrainer, "loss", lambda trainer, logits, inputs: logits.sum() * float("nan"))
    optimizer = run(made, closed_form=False)
    notes = " ".join(optimizer.pruned.report.recovery.notes)
    assert "NaN at step 1" in notes and "before the first checkpoint" in notes
    before = AutoModelForCausalLM.from_pretrained(made / "pruned")
    assert weights_hash(optimizer.pruned.model) == weights_hash(before)
    json.loads(report_text(optimizer.pruned.report), parse_constant=pytest.fail)


@pytest.mark.thorough
def test_training_that_only_harms_is_not_kept(made):
    optimizer = run(made, learning_rate=50.0, closed_form=False)
    section = optimizer.pruned.report.recovery
    assert section.training.best_step == 0
    assert any("no checkpoint was better" in note for note in section.notes)
    assert section.held_out_after.divergence == section.held_out_before.divergence


@pytest.mark.parametrize(
    "changes",
    thorough_but(
        1,
        [
            {"teacher": "resident"},
            {"loss": "cross-entropy"},
            {"loss": "both", "distill_on": "answer"},
            {"train_embeddings": True},
            {"gradient_checkpointing": True, "targets": ["q_proj", "down_proj"]},
            {"dtype": "bfloat16"},
            {"dtype": "auto"},
            {"answers": "reference", "template": "chat"},
            FULL,
            {**FULL, "train_embeddings": True, "gradient_checkpointing": True},
            {**FULL, "dtype": "bfloat16", "loss": "both"},
        ],
    ),
    ids=lambda changes: "-".join(changes),
)
def test_every_way_of_training_lowers_its_loss(made, changes):
    optimizer = run(made, closed_form=False, **changes)
    training = optimizer.pruned.report.recovery.training
    assert training.best_loss < training.start_loss
    tied = optimizer.pruned.model
    assert tied.get_input_embeddings().weight is tied.get_output_embeddings().weight


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx2": True, "avx512_bf16": True}, "bfloat16"), ({"avx2": True, "avx512_bf16": False}, "float32")],
)
def test_bfloat16_only_where_the_processor_multiplies_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert number_format("auto", torch.device("cpu")) == expected
    assert number_format("bfloat16", torch.device("cpu")) == "bfloat16"


@pytest.mark.thorough
def test_cached_and_resident_teachers_agree_where_no_token_is_left_out(made):
    curves = [
        run(made, closed_form=False, **changes).pruned.report.recovery.training.curve
        for changes in ({"top_k": 10_000}, {"teacher": "resident"})
    ]
    for cached, resident in zip(*curves, strict=True):
        cached, resident = (point.model_dump(exclude_none=True) for point in (cached, resident))
        assert cached == pytest.approx(resident, abs=2e-3)


@pytest.mark.parametrize(
    "dtype", thorough_but(1, ["float32", "bfloat16"])
)  # the dense model's own, and another: a copy computes then
@pytest.mark.parametrize("teacher", thorough_but(1, ["cached", "resident"]))
def test_the_dense_weights_are_given_up_only_when_asked(made, dtype, teacher):
    for release, device in ((False, "cpu"), (True, "meta")):
        optimizer = optimizer_for(made)
        optimizer.recover(
            config_for(made, max_steps=1, dtype=dtype, teacher=teacher),
            confirm_run_unsafe_code=True,
            cache_dir=made / "cache",
            release_dense=release,
        )
        read_on = (dtype, teacher) == ("float32", "resident")  # by the training
        assert optimizer.dense.model.device.type == ("cpu" if read_on else device)
        optimizer.save_pretrained(made / f"recovered-{device}")


def test_the_recovery_section_of_one_configuration_file_is_enough(made):
    optimizer = FlabOptimizer.from_pretrained(made / "dense")
    old = FlabPrunerConfig.from_dict(json.loads((made / "pruned" / "flab_config.json").read_text())).to_dict()
    recovery = {**SMALL, "data": [str(made / "alpaca.json")], "max_steps": 2}
    optimizer.prune(FlabPrunerConfig.from_dict({**old, "recovery": recovery}))
    optimizer.recover(cache_dir=made / "cache")
    assert optimizer.pruned.report.recovery.training.steps_done == 2


def test_nothing_changes_without_data_and_text(made):
    with pytest.raises(ConfigurationError, match="recovery.data: no source.*recovery.text_share is 0"):
        optimizer_for(made).recover(RecoveryConfig(text_share=0))
    with pytest.raises(ConfigurationError, match="recovery.data: no source.*only from answers"):
        optimizer_for(made).recover(RecoveryConfig(distill_on="answer"))


def test_held_out_text_is_what_was_named_else_that_of_the_pruning(made, tmp_path):
    named, pruning = (str(made / name) for name in ("held_out.jsonl", "corpus.jsonl"))
    plan = SimpleNamespace(settings={"data": {"held_out": [pruning]}})
    assert len(data_room.held_out_texts(RecoveryConfig(data="x", held_out=named), plan)) == 6
    assert len(data_room.held_out_texts(RecoveryConfig(data="x"), plan)) == 16
    gone = SimpleNamespace(settings={"data": {"held_out": [str(tmp_path / "gone.jsonl")]}})
    assert data_room.held_out_texts(RecoveryConfig(data="x"), gone) == []


def test_no_text_that_measures_is_trained_on(made):
    file = write_lines(
        made / "measured.jsonl", [{"text": row["prompt"] + row["canonical_solution"]} for row in problems(4)]
    )
    optimizer = run(made, max_steps=1, held_out=f"{file}[text]", answers="reference")
    assert optimizer.pruned.report.recovery.data.dropped == {"overlapping held-out text": 4}


# --- bad input -----------------------------------------------------------------------------------------------------


def test_a_teacher_with_other_weights_is_refused(made):
    other = AutoModelForCausalLM.from_pretrained(made / "dense")
    with torch.no_grad():
        other.get_input_embeddings().weight[0, 0] += 1
    other.save_pretrained(made / "dense")
    with pytest.raises(FlabError, match="name the model that it was pruned from"):
        run(made)


def test_a_teacher_with_other_ids_is_refused(made):
    optimizer = optimizer_for(made)
    file = made / "dense" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    first, second = [token for token in vocabulary if len(token) == 1][:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(content))
    optimizer.dense.tokenizer = AutoTokenizer.from_pretrained(made / "dense")
    with pytest.raises(FlabError, match="its tokens have other ids; name the teacher"):
        optimizer.recover(config_for(made), confirm_run_unsafe_code=True, cache_dir=made / "cache")


def test_a_teacher_of_another_shape_is_refused(made):
    tiny_model("qwen2", vocab_size=608, num_hidden_layers=2).save_pretrained(made / "dense")
    with pytest.raises(FlabError, match="does not fit this model: it keeps layers"):
        optimizer_for(made)


def test_data_without_usable_columns_is_refused_with_those_it_has(made):
    write_lines(made / "odd.jsonl", [{"frage": "?", "antwort": "!"}])
    with pytest.raises(FlabError, match="columns found: frage, antwort"):
        run(made, data=["odd.jsonl"])


def test_an_empty_set_shows_what_each_filter_left_out(made):
    texts = "\n".join(row["prompt"] + row["canonical_solution"] for row in problems())
    (made / "benchmark.txt").write_text(texts)
    write_lines(made / "twice.jsonl", problems() * 2)
    with pytest.raises(FlabError, match=r"of 48 examples 0 stay \(.*overlapping excluded sources.*duplicates"):
        run(made, data=["twice.jsonl"], exclude=[str(made / "benchmark.txt")])


def test_sequences_that_are_all_too_long_are_refused(made):
    with pytest.raises(FlabError, match="longer than 8 tokens"):
        run(made, sequence_length=8, answers="reference")


def test_tests_need_consent_before_anything_long(made):
    with pytest.raises(ConfigurationError, match="`confirm_run_unsafe_code`"):
        optimizer_for(made).recover(config_for(made), cache_dir=made / "cache")
    assert not list((made / "cache").glob("answers/*"))


def test_no_space_for_checkpoints_is_said_before_training_but_for_what_is_there(made, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(FlabError, match="predictions take another .* MB, and the disk of .* free some space"):
        run(made, answers="reference")
    (made / "cache" / "teacher").mkdir()
    (made / "cache" / "teacher" / "a.safetensors").write_bytes(bytes(10**7))
    run(made, answers="reference", max_steps=1)


def test_a_disk_that_fills_up_while_training_is_said(made, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecoveryTrainer, "_save_checkpoint", full)
    with pytest.raises(FlabError, match="no space for checkpoints"):
        run(made)


def test_a_batch_that_processes_cannot_share_is_refused():
    settings = RecoveryConfig(data="x", batch_size=6)
    with pytest.raises(ConfigurationError, match="multiple of 4"):
        training_sizes(settings, 10, 4)
    assert training_sizes(settings, 10, 2).accumulation * training_sizes(settings, 10, 2).micro_batch_size == 3


def test_an_unknown_target_names_the_linear_layers(made):
    with pytest.raises(ConfigurationError, match="linear layers of this model: .*down_proj"):
        run(made, targets=["no_such"], answers="reference")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"targets": ["no_such"]}, "linear layers of this model"),
        ({"sequence_length": 8}, "longer than 8 tokens"),
        ({"template": "chat"}, "refuses it"),
        ({"sequence_length": 4096}, "fills 1 sequence"),
    ],
    ids=["target", "length", "template", "one row"],
)
def test_what_would_fail_later_is_said_before_the_dense_model_answers(made, monkeypatch, changes, message):
    def never(*args, **kwargs):
        raise AssertionError("the dense model was asked")

    monkeypatch.setattr(data_room, "_answered", never)
    file = made / "pruned" / "chat_template.jinja"
    file.write_text("{{ raise_exception('unknown') }}")
    write_lines(
        made / "plain.jsonl",
        [
            {"instruction": f"Write the number {n} into a variable of the name x.", "output": f"x = {n}"}
            for n in range(30)
        ],
    )
    with pytest.raises(FlabError, match=message):
        run(made, data=["plain.jsonl"], **changes)


@pytest.mark.thorough
def test_rows_without_prompt_or_answer_are_counted(made):
    rows = [{"instruction": " ", "output": "x = 1"}, {"instruction": "Write it.", "output": ""}]
    write_lines(made / "blank.jsonl", rows)
    done = run(made, data=["blank.jsonl", "alpaca.json"], answers="reference", max_steps=1)
    section = done.pruned.report.recovery
    assert section.data.examples == 26
    assert section.data.dropped["without a prompt or an answer"] == 2


def work_of(made) -> Work:
    optimizer = optimizer_for(made)
    pruned = optimizer.pruned
    return Work(optimizer.dense, pruned.model, pruned.tokenizer, pruned.plan, optimizer.family)


def test_only_as_many_tokens_are_measured_on_as_asked_from_all_texts(made):
    work, texts = work_of(made), ["".join(f"n_{n}_{line} = {n}\n" for line in range(40)) for n in range(30)]

    def tokens(passages):
        return sum(len(work.dense.tokenizer(passage)["input_ids"]) for passage in passages)

    whole = data_room.within_tokens(work, ["\n \n", *texts], config_for(made, held_out_tokens=10**6))
    assert sorted("".join(whole)) == sorted("".join(texts))
    part = data_room.within_tokens(work, texts, config_for(made, held_out_tokens=tokens(whole) // 3))
    assert tokens(whole) // 6 < tokens(part) <= tokens(whole) // 3 and part == whole[: len(part)]
    assert any(passage in "".join(texts[15:]) for passage in part)
    assert len(data_room.within_tokens(work, texts, config_for(made, held_out_tokens=1))) == 1


def test_plain_text_is_distilled_up_to_its_budget_and_chooses_nothing(made):
    passages = [{"text": f"value_{n} = {n}\nprint(value_{n} + {n * 3})\n" * 3} for n in range(40)]
    shown = problems(1)[0]
    passages.append({"text": shown["prompt"] + shown["canonical_solution"]})
    source = f"{write_lines(made / 'plain.jsonl', passages)}[text]"
    settings = config_for(made, text=source, text_tokens=400, answers="reference", exclude=[str(made / "mine.txt")])
    (made / "mine.txt").write_text(shown["prompt"] + shown["canonical_solution"])
    work = work_of(made)
    steps = Steps(quiet=True)
    selected = data_room.select(work, settings, read_instructions(settings.data), ["nothing"], steps)
    data = data_room.prepare(work, settings, selected, None, steps, torch.float32)
    plain = selected.plain
    assert 300 < plain.tokens.tokens <= 400 and bool((plain.labels < 0).all())
    assert torch.equal(data.rows.tokens.input_ids[-len(plain) :], plain.tokens.input_ids)
    without = data_room.prepare(work, settings, replace(selected, plain=None), None, steps, torch.float32)
    assert data.validation.digest == without.validation.digest
    assert len(data.rows) == len(without.rows) + len(plain)
    text = work.tokenizer.decode(plain.tokens.input_ids.flatten())
    assert "value_" in text and shown["entry_point"] not in text
    every = config_for(made, text=source, text_tokens=10**6, answers="reference", exclude=[str(made / "mine.txt")])
    counts = data_room.select(work, every, read_instructions(every.data), ["nothing"], steps).counts
    assert counts.passages == 40 and counts.passages_dropped == {"excluded sources": 1}


def test_plain_text_does_not_show_what_is_set_aside_of_the_instructions(made):
    rows = [{"text": row["prompt"] + row["canonical_solution"]} for row in problems(4)]
    rows.append({"text": "something = 'else'\n" * 3})
    source = f"{write_lines(made / 'same.jsonl', rows)}[text]"
    settings = config_for(made, text=source, answers="reference")
    examples = read_instructions(settings.data)
    counts = data_room.select(work_of(made), settings, examples, ["nothing"], Steps(quiet=True)).counts
    assert counts.passages == 1 and counts.passages_dropped == {"the instruction data": 4}


@pytest.mark.thorough
def test_plain_text_is_learned_from(made):
    """What is measured on is like the plain text, not like the instructions."""
    choose = random.Random(0)
    lines = [{"text": " ".join(choose.choices(["UVW", "+ -", "QRS", "7 8", "%%"], k=40))} for _ in range(80)]
    texts, measured = write_lines(made / "like.jsonl", lines[:60]), write_lines(made / "upper.jsonl", lines[60:])
    options = {"answers": "reference", "held_out": f"{measured}[text]", "closed_form": False, "max_steps": 12}
    without = run(made, **options).pruned.report.held_out.divergence
    report = run(made, **options, text=f"{texts}[text]", text_tokens=10_000).pruned.report
    assert report.recovery.data.plain_text.passages > 0
    assert report.held_out.divergence < without


@pytest.mark.parametrize("changes", [{"loss": "cross-entropy"}, {"distill_on": "answer"}], ids=str)
def test_plain_text_needs_a_loss_that_reads_it(made, changes):
    with pytest.raises(ConfigurationError, match="recovery.text: plain text has no answers"):
        run(made, text="python-stdlib", **changes)


def test_a_model_is_not_recovered_twice(made):
    optimizer = run(made, answers="reference", max_steps=1)
    with pytest.raises(ConfigurationError, match="already recovered"):
        optimizer.recover(config_for(made, answers="reference"), cache_dir=made / "cache")
    optimizer.save_pretrained(made / "recovered")
    again = FlabOptimizer.from_pretrained(made / "dense")
    again.load_pruned(made / "recovered")
    with pytest.raises(ConfigurationError, match="already recovered"):
        again.recover(config_for(made, answers="reference"), cache_dir=made / "cache")


@pytest.mark.thorough
def test_a_teacher_that_was_rounded_says_so(made):
    optimizer = FlabOptimizer.from_pretrained(made / "dense", dtype="bfloat16")
    optimizer.load_pruned(made / "pruned")
    with pytest.raises(FlabError, match="without a `dtype` that rounds"):
        optimizer.recover(config_for(made, answers="reference"), cache_dir=made / "cache")


@pytest.mark.thorough
def test_what_is_learned_and_a_result_from_before_are_said(made, capsys):
    run(made, max_steps=1, max_new_tokens=4)
    assert " reference (answers of the dense model left out: " in capsys.readouterr().err
    run(made, max_steps=1, max_new_tokens=4)
    assert "this training was finished before" in capsys.readouterr().err
