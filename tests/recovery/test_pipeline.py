"""The whole way on a tiny model: real data files, real sandbox, real training, real checkpoints."""

import copy
import errno
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, get_scheduler
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback

from optimum_flab import ConfigurationError, FlabError, FlabOptimizer, FlabPrunerConfig, RecoveryConfig
from optimum_flab.checkpoints.hashes import weights_hash
from optimum_flab.families.files import known_family
from optimum_flab.records.checksums import SUMS, check_checksums, write_checksums
from optimum_flab.records.held_out import KindCost
from optimum_flab.records.report import FileCost, report_text
from optimum_flab.records.work import NAME
from optimum_flab.recovery import checks, pipeline, training
from optimum_flab.recovery import rows as rows_room
from optimum_flab.recovery.checks import check_settings
from optimum_flab.recovery.methods import NamesInCheckpoints, trainable, with_lora
from optimum_flab.recovery.pipeline import recover
from optimum_flab.recovery.sizes import training_sizes
from optimum_flab.recovery.teacher import DenseTeacher
from optimum_flab.recovery.trainer import RecoveryTrainer
from optimum_flab.recovery.training import last_checkpoint, number_format, training_arguments
from optimum_flab.running.answers import Writer
from optimum_flab.running.casting import copy_in

from ..conftest import thorough_but, tiny_model
from .conftest import SMALL, config_for, recovered, write_lines


FULL = {"method": "full", "learning_rate": 5e-4}
REFERENCES = {"answers": "reference"}  # nothing but the training takes time


def test_recovery_gives_a_stock_checkpoint_nearer_to_the_dense_model(made):
    optimizer = FlabOptimizer.from_pretrained(made / "dense")
    pruned = optimizer.load_pruned(made / "pruned")
    cost = KindCost(**{name: getattr(pruned.report.held_out, name) for name in KindCost.model_fields})
    file = FileCost(name="before.gguf", type="f16", bytes=1, sha256="", against="dense", cost=cost)
    optimizer.pruned = pruned.with_report(files=(file,))
    optimizer.recover(config_for(made), confirm_run_unsafe_code=True, cache_dir=made / "cache")
    after = optimizer.pruned
    assert not after.report.files  # it has the weights before the training
    assert after.reference().measure(after.model) == after.report.held_out.model_copy(update={"by_layer": ()})
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
    for name in ("config.json", "generation_config.json", "flab_plan.json", "tokenizer.json", "flab_config.json"):
        assert (made / "recovered" / name).read_bytes() == (made / "pruned" / name).read_bytes(), name
    assert AutoTokenizer.from_pretrained(made / "recovered").chat_template
    assert section["data"]["examples"] == 48 and section["datasets"] == []
    assert sum(section["data"]["answers"].values()) <= 48
    assert section["estimate"]["memory_bytes"] > 0
    for _ in range(2):  # in memory, and from its folder
        with pytest.raises(ConfigurationError, match="already recovered"):
            optimizer.recover(config_for(made))
        optimizer.load_pruned(made / "recovered")


def test_the_adapter_alone_makes_the_pruned_model_the_recovered_one(loaded, made):
    found = recovered(loaded, made, keep_adapter=True, max_steps=4, **REFERENCES)
    base = AutoModelForCausalLM.from_pretrained(made / "pruned")
    with_adapter = PeftModel.from_pretrained(base, found.files["adapter"]).merge_and_unload()
    for name, tensor in found.model.state_dict().items():
        torch.testing.assert_close(with_adapter.state_dict()[name], tensor, atol=1e-6, rtol=1e-5)
    for file in found.files["adapter"].iterdir():
        assert str(made).encode() not in file.read_bytes(), file
    weights = {file: file.read_bytes() for file in found.files["adapter"].iterdir()}
    again = recovered(loaded, made, keep_adapter=True, max_steps=4, learning_rate=1e-3, **REFERENCES)
    assert again.files["adapter"] != found.files["adapter"]
    assert {file: file.read_bytes() for file in weights} == weights  # another training leaves it alone
    assert not [path for path in (made / "cache").iterdir() if not NAME.fullmatch(path.name)]  # old ones are forgotten


@pytest.mark.parametrize(
    "method",
    [pytest.param({}, marks=pytest.mark.thorough), {**FULL, "answers": "reference"}],
    ids=["lora", "full"],
)
def test_a_run_that_was_killed_goes_on_to_the_same_weights(loaded, made, monkeypatch, method, capsys):
    whole = recovered(loaded, made, **method)
    steps = []
    own_step = RecoveryTrainer.training_step

    def killed_in_step_six(trainer, *args, **kwargs):
        steps.append(trainer.state.global_step)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return own_step(trainer, *args, **kwargs)

    monkeypatch.setattr(RecoveryTrainer, "training_step", killed_in_step_six)
    with pytest.raises(KeyboardInterrupt):
        recovered(loaded, made, cache="other", **method)
    steps.clear()
    monkeypatch.setattr(
        RecoveryTrainer, "training_step", lambda trainer, *a, **k: steps.append(0) or own_step(trainer, *a, **k)
    )
    again = recovered(loaded, made, cache="other", **method)
    said = capsys.readouterr().err
    assert "the training resumes after step 4" in said and "finished pieces" not in said
    assert len(steps) == 4  # of 8: the first four were in the checkpoint
    recovered(loaded, made, cache="other", **method)
    assert len(steps) == 4  # a training that was finished is not done again
    assert not list((made / "other").rglob("checkpoint-*"))
    assert weights_hash(again.model) == weights_hash(whole.model)
    assert again.report.recovery.training == whole.report.recovery.training
    assert again.report.recovery.training.best_loss < again.report.recovery.training.start_loss
    if method:  # all weights but those of the embeddings were trained
        before, after = loaded[1].model.state_dict(), again.model.state_dict()
        same = {name for name in before if torch.equal(before[name], after[name])}
        assert same == {"model.embed_tokens.weight", "lm_head.weight"}
        assert RecoveryConfig(**again.report.recovery.settings).method == "full"


def test_where_memory_ends_the_training_goes_on_with_fewer_sequences_at_once(loaded, made, monkeypatch, capsys):
    whole = recovered(loaded, made, micro_batch_size=1, **REFERENCES)
    read, own_step = [], RecoveryTrainer.training_step

    def out_of_memory_in_step_six(trainer, model, inputs, *args, **kwargs):
        rows = len(inputs["input_ids"])
        if rows > 1 and trainer.state.global_step == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        read.append(rows)
        return own_step(trainer, model, inputs, *args, **kwargs)

    monkeypatch.setattr(RecoveryTrainer, "training_step", out_of_memory_in_step_six)
    found = recovered(loaded, made, cache="other", micro_batch_size=4, **REFERENCES)
    assert read == [4] * 5 + [2] * 2 + [1] * 4 * 4  # each time from the checkpoint of step 4
    section = found.report.recovery
    assert [note for note in section.notes if "out of memory with 4 sequences per forward pass" in note]
    assert "continued with 1" in capsys.readouterr().err
    assert section.training.best_loss == pytest.approx(whole.report.recovery.training.best_loss, rel=1e-4)


@pytest.mark.thorough
def test_early_stopping_counts_on_where_a_killed_run_was(loaded, made, monkeypatch):
    """The loss on the rows set aside is scripted: better once, then never again."""
    loop = RecoveryTrainer.evaluation_loop

    def scripted(self, *arguments, **options):
        output = loop(self, *arguments, **options)
        output.metrics["eval_loss"] = 1.0 if self.state.global_step == 2 else 2.0
        return output

    monkeypatch.setattr("optimum_flab.recovery.training.loss_of", lambda *_: 5.0)
    monkeypatch.setattr(RecoveryTrainer, "evaluation_loop", scripted)
    wanted = {"max_steps": 16, "evaluations": 8, "patience": 3, "answers": "reference"}
    whole = recovered(loaded, made, cache="a", **wanted).report.recovery
    save = RecoveryTrainer._save_checkpoint

    def killed(self, *arguments, **options):
        save(self, *arguments, **options)
        if self.state.global_step == 6:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RecoveryTrainer, "_save_checkpoint", killed)
        recovered(loaded, made, cache="b", **wanted)
    resumed = recovered(loaded, made, cache="b", **wanted).report.recovery
    assert (whole.training.steps_done, whole.training.best_step) == (8, 2)
    assert (resumed.training.steps_done, resumed.training.best_step) == (8, 2)
    patient = recovered(loaded, made, cache="c", **wanted | {"patience": None}).report.recovery
    assert (patient.training.steps_done, patient.training.best_step) == (16, 2)


@pytest.mark.thorough
def test_the_learning_rate_of_the_method_is_taken_and_written_down(loaded, made):
    for method, rate in (("lora", 2e-4), ("full", 5e-6)):
        asked = RecoveryConfig(method=method)
        assert asked.largest_rate(100) == rate and asked.largest_rate(800) == pytest.approx(rate / 2)
        assert RecoveryConfig(method=method, learning_rate=1.0).largest_rate(800) == 1
    found = recovered(loaded, made, method="full", learning_rate=None, max_steps=1, **REFERENCES)
    assert found.report.recovery.settings["learning_rate"] == 5e-6


def test_the_learning_rate_rises_and_falls_along_a_cosine_to_its_floor():
    settings = RecoveryConfig(learning_rate=1.0, final_rate_share=0.25, warmup_share=0.1, max_steps=100, epochs=1)
    arguments = training_arguments(settings, training_sizes(settings, 10), 3, Path("x"), torch.device("cpu"))
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


def test_what_a_training_would_refuse_is_refused_before_the_pruning(made):
    written = json.loads((made / "pruned" / "flab_config.json").read_text())
    optimizer = FlabOptimizer.from_pretrained(made / "dense")

    def refused(message, **recovery):
        recovery = {**SMALL, "data": [str(made / "problems.jsonl")], **recovery}
        config = FlabPrunerConfig.from_dict({**written, "recovery": recovery})
        with pytest.raises(FlabError, match=message):
            optimizer.prune_and_recover(config, cache_dir=made / "cache")
        assert not (made / "cache").exists()

    refused("`confirm_run_unsafe_code`")
    for name in ("text", "exclude", "held_out"):
        refused("absent.txt", **REFERENCES, **{name: [str(made / "absent.txt")]})
    optimizer.dense = replace(optimizer.dense, family=known_family("mixtral"))
    refused("does not train mixtures of experts, such as mixtral", method="full", rank=None, **REFERENCES)
    assert check_settings(optimizer.dense, RecoveryConfig(), False) == []


def test_all_weights_are_trained_where_there_is_room_and_a_run_keeps_to_its_choice(loaded, made, monkeypatch, capsys):
    options = {**REFERENCES, "rank": None, "max_steps": 1}
    free = {"bytes": 0.0}
    monkeypatch.setattr(pipeline, "available_for_training", lambda *_: free["bytes"])
    monkeypatch.setattr(pipeline, "rows_at_once", lambda *_: 1 if free["bytes"] == 0 else 4)
    lora = recovered(loaded, made, **options).report.recovery
    assert lora.settings["method"] == "lora" and lora.settings["rank"] == 32 and lora.settings["epochs"] == 3
    (note,) = [note for note in lora.notes if "LoRA matrices are trained instead" in note]
    assert "of memory, and 0.0 GB are available" in note and note in capsys.readouterr().err
    with pytest.raises(FlabError, match="training all weights takes about .* available; use `recovery.method` lora"):
        recovered(loaded, made, **options, method="full")
    train = training.train
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception):
        recovered(loaded, made, **options | {"max_steps": 2})
    monkeypatch.setattr(training, "train", train)
    free["bytes"] = 1e15
    with monkeypatch.context() as patch, pytest.raises(pytest.fail.Exception):
        patch.setattr(pipeline, "report_section", lambda *_: pytest.fail("killed"))
        recovered(loaded, made, **options | {"max_steps": 2})
    resumed = recovered(loaded, made, **options | {"max_steps": 2}).report.recovery
    assert resumed.settings["method"] == "lora" and resumed.training.micro_batch_size == 1
    full = recovered(loaded, made, **options).report.recovery
    assert full.training.micro_batch_size == 4
    assert full.settings["method"] == "full" and full.settings["text_tokens"] == 163_840
    assert not [note for note in full.notes if "LoRA" in note]
    assert recovered(loaded, made, cache="other", rank=2, **REFERENCES).report.recovery.settings["method"] == "lora"


def test_a_checkpoint_that_lacks_what_is_trained_ends_the_training(tmp_path):
    model = tiny_model("qwen2").requires_grad_(True)
    model.save_pretrained(tmp_path / "checkpoint-2")
    arguments, state = SimpleNamespace(output_dir=tmp_path), SimpleNamespace(global_step=2, is_world_process_zero=True)
    NamesInCheckpoints().on_save(arguments, state, None, model=model)
    model.extra = torch.nn.Linear(1, 1)
    with pytest.raises(ConfigurationError, match="other names for 2 weights, extra.bias among them; use 'lora'"):
        NamesInCheckpoints().on_save(arguments, state, None, model=model)


def test_what_is_trained_is_held_in_float32(loaded):
    cpu, pruned = torch.device("cpu"), loaded[1].model
    model = with_lora(copy_in(pruned, cpu, torch.bfloat16), RecoveryConfig(data="x", **SMALL, train_embeddings=True))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    full = trainable(pruned, RecoveryConfig(method="full"), cpu, torch.bfloat16)
    assert {p.dtype for p in full.parameters()} == {torch.float32}
    assert {name for name, p in full.named_parameters() if not p.requires_grad} == {"model.embed_tokens.weight"}
    with pytest.raises(ConfigurationError, match="lm_head shares its weights with the embeddings"):
        with_lora(pruned, RecoveryConfig(targets=["lm_head", "q_proj"]))


def test_what_is_trained_begins_by_the_seed_alone(loaded):
    def matrices(seed):
        copied = copy_in(loaded[1].model, torch.device("cpu"), torch.float32)
        model = with_lora(copied, RecoveryConfig(data="x", **SMALL, seed=seed))
        return torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])

    assert matrices(1).equal(matrices(1)) and not matrices(1).equal(matrices(2))


def test_a_checkpoint_that_was_not_written_whole_is_not_gone_on_from(tmp_path):
    for step, is_whole in ((2, True), (4, True), (6, False)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        if is_whole:
            write_checksums(folder, folder.name)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.parametrize(("best", "found"), [(2, None), (10, 10)])
@pytest.mark.parametrize("how", ["altered", "partly removed"])
def test_training_begins_anew_only_where_the_best_checkpoint_is_damaged(how, best, found, tmp_path):
    for step in (2, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        then = min(step, best)
        (folder / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": f"/old/checkpoint-{then}"}))
        write_checksums(folder, folder.name)
    weights = tmp_path / "checkpoint-2/model.safetensors"
    if how == "altered":
        weights.write_bytes(b"heights")
    else:  # by a run that was killed while the Trainer removed what is neither the best nor the last
        weights.unlink()
    assert last_checkpoint(tmp_path) == (found and str(tmp_path / f"checkpoint-{found}"))
    assert not (tmp_path / "checkpoint-2").exists() and tmp_path.exists() == bool(found)


def test_checksums_are_whole_or_not_there(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"content")
    write_checksums(tmp_path, "name")
    stated = json.loads((tmp_path / SUMS).read_text())
    (tmp_path / SUMS).write_text(json.dumps({"name": "name", "sha252": stated["sha256"]}))
    with pytest.raises(ValueError, match="not as it was written"):
        check_checksums(tmp_path, "name")
    (tmp_path / SUMS).unlink()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(OSError, match="No space"):
        write_checksums(tmp_path, "name")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.thorough
def test_a_loss_that_becomes_nan_stops_and_keeps_the_last_good_checkpoint(loaded, made, monkeypatch):
    own_loss = RecoveryTrainer.loss

    def broken_from_step_seven(trainer, logits, inputs):
        loss = own_loss(trainer, logits, inputs)
        return loss * float("nan") if trainer.state.global_step >= 6 else loss

    monkeypatch.setattr(RecoveryTrainer, "loss", broken_from_step_seven)
    found = recovered(loaded, made)
    assert found.report.recovery.training.best_step == 4
    (note,) = found.report.recovery.notes
    assert "NaN at step 7" in note and "step 4 is kept" in note and "learning rate" in note
    assert all(torch.isfinite(tensor).all() for tensor in found.model.state_dict().values())
    monkeypatch.undo()
    short = recovered(loaded, made, max_steps=8, patience=1)
    assert weights_hash(short.model) != weights_hash(found.model)


@pytest.mark.thorough
def test_a_loss_that_is_nan_from_the_start_leaves_the_model_as_it_was(loaded, made, monkeypatch):
    monkeypatch.setattr(RecoveryTrainer, "loss", lambda trainer, logits, inputs: logits.sum() * float("nan"))
    found = recovered(loaded, made)
    notes = " ".join(found.report.recovery.notes)
    assert "NaN at step 1" in notes and "before the first checkpoint" in notes
    assert weights_hash(found.model) == weights_hash(loaded[1].model)
    json.loads(report_text(found.report), parse_constant=pytest.fail)


@pytest.mark.thorough
def test_training_that_only_harms_is_not_kept(loaded, made):
    section = recovered(loaded, made, learning_rate=50.0).report.recovery
    assert section.training.best_step == 0
    assert any("no checkpoint was better" in note for note in section.notes)
    assert section.held_out_after.divergence == section.held_out_before.divergence


@pytest.mark.parametrize(
    "changes",
    thorough_but(
        1,
        [
            {"teacher": "resident", "answers": "reference"},
            {"loss": "cross-entropy"},
            {"loss": "both", "distill_on": "answer"},
            {"train_embeddings": True},
            {"gradient_checkpointing": True, "targets": ["q_proj", "down_proj"]},
            {"dtype": "bfloat16"},
            {"dtype": "auto"},
            {"answers": "reference", "template": "chat"},
            {"optim": "sgd", "learning_rate": 1.0, "answers": "reference"},
            {**FULL, "optim": "adafactor", "answers": "reference"},
            FULL,
            {**FULL, "train_embeddings": True, "gradient_checkpointing": True},
            {**FULL, "dtype": "bfloat16", "loss": "both"},
        ],
    ),
    ids=lambda changes: "-".join(changes),
)
def test_every_way_of_training_lowers_its_loss(loaded, made, changes):
    found = recovered(loaded, made, **changes)
    training = found.report.recovery.training
    assert training.best_loss < training.start_loss
    assert found.model.get_input_embeddings().weight is found.model.get_output_embeddings().weight


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx2": True, "avx512_bf16": True}, "bfloat16"), ({"avx2": True, "avx512_bf16": False}, "float32")],
)
def test_bfloat16_only_where_the_processor_multiplies_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert number_format("auto", torch.device("cpu")) == expected
    assert number_format("bfloat16", torch.device("cpu")) == "bfloat16"


@pytest.mark.thorough
def test_cached_and_resident_teachers_agree_where_no_token_is_left_out(loaded, made):
    curves = [
        recovered(loaded, made, **changes).report.recovery.training.curve
        for changes in ({"top_k": 10_000}, {"teacher": "resident"})
    ]
    for cached, resident in zip(*curves, strict=True):
        cached, resident = (point.model_dump(exclude_none=True) for point in (cached, resident))
        assert cached == pytest.approx(resident, abs=2e-3)


# the dense model's own dtype, and another: a copy computes then
@pytest.mark.parametrize("dtype", thorough_but(1, ["float32", "bfloat16"]))
@pytest.mark.parametrize("teacher", thorough_but(1, ["cached", "resident"]))
def test_the_dense_weights_are_given_up_only_when_asked(loaded, made, dtype, teacher):
    dense, pruned = loaded
    asked = config_for(made, max_steps=1, dtype=dtype, teacher=teacher, answers="reference")
    for release, device in ((False, "cpu"), (True, "meta")):
        own = replace(dense, model=copy.deepcopy(dense.model))
        recover(own, pruned, asked, cache_dir=made / f"{release}", release_dense=release)
        read_on = (dtype, teacher) == ("float32", "resident")  # by the training
        assert own.model.device.type == ("cpu" if read_on else device)


def test_the_settings_of_the_pruning_are_enough(loaded, made):
    dense, pruned = loaded
    settings = {**pruned.config.to_dict(), "recovery": config_for(made, max_steps=1, **REFERENCES).model_dump()}
    found = recover(dense, replace(pruned, config=FlabPrunerConfig.from_dict(settings)), cache_dir=made / "cache")
    assert found.report.recovery.training.steps_done == 1


def test_held_out_text_is_what_was_named_else_that_of_the_pruning(made, tmp_path):
    named, pruning = (str(made / name) for name in ("held_out.jsonl", "corpus.jsonl"))
    plan = SimpleNamespace(settings={"data": {"held_out": [pruning]}})
    assert len(rows_room.held_out_texts(RecoveryConfig(data="x", held_out=named), plan)) == 6
    assert len(rows_room.held_out_texts(RecoveryConfig(data="x"), plan)) == 16
    gone = SimpleNamespace(settings={"data": {"held_out": [str(tmp_path / "gone.jsonl")]}})
    assert rows_room.held_out_texts(RecoveryConfig(data="x"), gone) == []


def test_what_was_finished_is_found_again_and_another_learning_rate_finds_rows_and_predictions(
    loaded, made, monkeypatch, capsys
):
    first = recovered(loaded, made, max_steps=1, max_new_tokens=4)
    assert " reference (answers of the dense model left out: " in capsys.readouterr().err
    monkeypatch.setattr(rows_room, "dense_answers", lambda *_: pytest.fail("asked again"))
    monkeypatch.setattr(DenseTeacher, "likeliest", lambda *_, **__: pytest.fail("asked again"))
    again = recovered(loaded, made, max_steps=1, max_new_tokens=4)
    other = recovered(loaded, made, max_steps=1, max_new_tokens=4, learning_rate=1e-3)
    assert first.report.recovery.data == again.report.recovery.data == other.report.recovery.data
    assert weights_hash(first.model) == weights_hash(again.model)
    said = capsys.readouterr().err
    assert [said.count(f"{stage}: reused from") for stage in ("rows", "predictions", "training")] == [2, 2, 1]
    with pytest.raises(pytest.fail.Exception):
        recovered(loaded, made, max_steps=1, max_new_tokens=5)
    monkeypatch.undo()
    # other rows are made of the same answers
    monkeypatch.setattr(Writer, "_write", lambda *_: pytest.fail("asked again"))
    monkeypatch.setattr(rows_room, "run_programs", lambda *_, **__: pytest.fail("ran again"))
    found = recovered(loaded, made, max_steps=1, max_new_tokens=4, validation_share=0.3).report.recovery.data
    assert found.answers_rejected == first.report.recovery.data.answers_rejected
    assert found.validation_sequences > first.report.recovery.data.validation_sequences
    with pytest.raises(pytest.fail.Exception, match="asked again"):
        recovered(loaded, made, max_steps=1, max_new_tokens=5)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "full", "targets": ["q_proj"]}, "`targets` applies to LoRA"),
        ({"method": "full", "rank": 8}, "`rank` applies to LoRA"),
        ({"data": [], "text_share": 0}, "text_share is 0, so there is nothing to train on"),
        ({"data": [], "distill_on": "answer"}, "plain text has no answers"),
        ({"text": "python-stdlib", "loss": "cross-entropy"}, "plain text has no answers"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        RecoveryConfig(**{"data": "x", **settings})


def test_another_teacher_is_refused(loaded, made):
    dense, pruned = loaded
    other, tokenizer = copy.deepcopy(dense.model), copy.deepcopy(dense.tokenizer)
    with torch.no_grad():
        other.get_input_embeddings().weight[0, 0] += 1
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    first, second = [token for token in vocabulary if len(token) == 1][:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    tokenizer.backend_tokenizer.__setstate__(json.dumps(content).encode())
    rounded = replace(dense, model=copy_in(dense.model, torch.device("cpu"), torch.bfloat16))
    for wrong, message in (
        (replace(dense, model=other), "name the model that it was pruned from$"),
        (rounded, "without a `dtype` that rounds"),
        (replace(dense, tokenizer=tokenizer), "its tokens have other ids; name the teacher"),
    ):
        with pytest.raises(FlabError, match=message):
            recovered((wrong, pruned), made, answers="reference")


def test_no_space_for_checkpoints_is_said_before_training_but_for_what_is_there(loaded, made, monkeypatch):
    def refused():
        with pytest.raises(FlabError, match="predictions take another .* MB, and the disk of .* free some space"):
            recovered(loaded, made, max_steps=1, **REFERENCES)

    free = {"bytes": 1000}
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free["bytes"]))
    of_another = made / "cache" / "predictions-0123456789abcdef"
    of_another.mkdir(parents=True)
    (of_another / "a.safetensors").write_bytes(bytes(10**7))
    refused()
    assert not list((made / "cache").glob("rows-*/value"))  # the dense model would have answered
    free["bytes"] = 10**12
    with monkeypatch.context() as patch, pytest.raises(pytest.fail.Exception):
        patch.setattr(training, "train", lambda *_: pytest.fail("killed"))
        recovered(loaded, made, max_steps=1, **REFERENCES)
    free["bytes"] = 1000
    refused()
    (own,) = (made / "cache").glob("training-*")
    (of_another / "a.safetensors").rename(own / "a.safetensors")
    recovered(loaded, made, max_steps=1, **REFERENCES)


def test_a_disk_that_fills_up_while_training_is_said(loaded, made, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecoveryTrainer, "_save_checkpoint", full)
    with pytest.raises(FlabError, match="no space for checkpoints"):
        recovered(loaded, made, max_steps=1, **REFERENCES)


def test_losses_are_reported_and_whereto_decides_nothing(loaded, made, monkeypatch):
    class Recorder(TrainerCallback):
        seen = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.seen += [name for name in ("loss", "eval_loss") if name in logs]

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "wandb", Recorder)
    monkeypatch.setattr(checks, "get_available_reporting_integrations", lambda: ["wandb"])
    options = {**REFERENCES, "max_steps": 2}
    first = recovered(loaded, made, report_to="wandb", **options)
    assert {"loss", "eval_loss"} == set(Recorder.seen)
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained again"))
    again = recovered(loaded, made, **options)
    assert weights_hash(again.model) == weights_hash(first.model)


def test_what_tensorboard_reads_outlasts_the_checkpoints(loaded, made, monkeypatch):
    writer = MagicMock()

    class Callback(TensorBoardCallback):
        def __init__(self):
            self._SummaryWriter, self.tb_writer, self.logging_dir = writer, None, None

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "tensorboard", Callback)
    monkeypatch.setattr(checks, "get_available_reporting_integrations", lambda: ["tensorboard"])
    recovered(loaded, made, report_to="tensorboard", **{**REFERENCES, "max_steps": 2})
    assert Path(writer.call_args.kwargs["log_dir"]).parent == Path("runs")
    assert "eval/loss" in {call.args[0] for call in writer().add_scalar.call_args_list}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"report_to": ["codecarbon", "nowhere"]}, "recovery.report_to: 'nowhere' is not one of .*tensorboard, "),
        ({"report_to": "wandb"}, "recovery.report_to: the library of wandb is not installed"),
        ({"optim": "adamw_8bit"}, "recovery.optim: adamw_8bit needs bitsandbytes"),
        ({"optim": "adafactor", "shard": True}, "recovery.optim: adafactor does not train shards"),
    ],
)
def test_what_the_trainer_lacks_is_said_before_anything_is_prepared(loaded, made, monkeypatch, changes, message):
    monkeypatch.setattr(checks, "get_available_reporting_integrations", lambda: ["codecarbon"])
    monkeypatch.setattr(checks, "is_bitsandbytes_available", lambda: False)
    monkeypatch.setattr(pipeline, "prepare", lambda *_: pytest.fail("prepared"))
    with pytest.raises(ConfigurationError, match=message):
        recovered(loaded, made, **changes)


def test_a_batch_that_processes_cannot_share_is_refused():
    settings = RecoveryConfig(data="x", batch_size=6, epochs=1)
    with pytest.raises(ConfigurationError, match="multiple of 4"):
        training_sizes(settings, 10, 4)
    assert training_sizes(settings, 10, 2).accumulation * training_sizes(settings, 10, 2).micro_batch_size == 3


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"targets": ["no_such"]}, "linear layers of this model: .*down_proj"),
        ({"sequence_length": 8}, "longer than 8 tokens"),
        ({"template": "chat"}, "refuses it"),
        ({"sequence_length": 4096}, "fills 1 sequence"),
    ],
    ids=["target", "length", "template", "one row"],
)
def test_what_would_fail_later_is_said_before_the_dense_model_answers(loaded, made, monkeypatch, changes, message):
    def never(*args, **kwargs):
        raise AssertionError("the dense model was asked")

    monkeypatch.setattr(rows_room, "_choose_answers", never)
    dense, pruned = loaded
    tokenizer = copy.deepcopy(pruned.tokenizer)
    tokenizer.chat_template = "{{ raise_exception('unknown') }}"
    rows = [
        {"instruction": f"Write the number {n} into a variable of the name x.", "output": f"x = {n}"}
        for n in range(30)
    ]
    write_lines(made / "plain.jsonl", rows)
    with pytest.raises(FlabError, match=message):
        recovered((dense, replace(pruned, tokenizer=tokenizer)), made, data=["plain.jsonl"], **changes)
