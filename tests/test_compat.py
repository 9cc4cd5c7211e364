"""The names of other libraries that are not public are still there, and do what they did."""

import argparse

import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from optimum_flab.checkpoints.loading import load_dense
from optimum_flab.export import export_gguf
from optimum_flab.tensors.gguf_header import read_header
from optimum_flab.utils import compat

from .conftest import byte_level_tokenizer, tiny_model


def test_a_model_of_a_class_takes_dtype_and_attention():
    model = tiny_model("qwen2")
    before = compat.attention_of(model.config)
    made = compat.new_model(type(model), model.config, dtype=torch.bfloat16, attn_implementation="eager")
    assert type(made) is type(model) and made.dtype == torch.bfloat16
    assert compat.attention_of(made.config) == "eager" != before


def test_the_experts_of_a_mixture_are_computed_in_another_way_for_a_while():
    config = tiny_model("qwen2").config
    before = compat.experts_of(config)
    compat.set_experts(config, "batched_mm")
    with compat.experts_by(config, "eager"):
        assert compat.experts_of(config) == "eager"
    assert compat.experts_of(config) == "batched_mm" != before


def test_conversions_that_a_model_is_told_are_reverted_in_writing():
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import revert_weight_conversion

    from .families.zoo import member

    model = member("mixtral")
    compat.set_conversions(model, [])
    assert revert_weight_conversion(model, dict(model.state_dict())).keys() == model.state_dict().keys()
    compat.set_conversions(model, get_model_conversion_mapping(model))
    assert any("experts.0." in name for name in revert_weight_conversion(model, dict(model.state_dict())))


def test_what_a_class_ignores_in_loading_is_a_list_of_patterns():
    model = tiny_model("qwen2")
    model._keys_to_ignore_on_load_missing, model._keys_to_ignore_on_load_unexpected = {"a"}, ["b"]
    assert (compat.optional_tensors(model), compat.ignored_tensors(model)) == (["a"], ["b"])
    for name in ("missing", "unexpected"):  # the names by which the library itself knows them
        assert hasattr(PreTrainedModel, f"_keys_to_ignore_on_load_{name}")


def test_what_stands_in_a_gguf_file_is_read_by_another_function(tmp_path):
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    tiny_model("qwen2", 600).save_pretrained(tmp_path)
    byte_level_tokenizer(600).save_pretrained(tmp_path)
    export_gguf(load_dense(tmp_path), tmp_path / "tiny.gguf")
    expected, read = load_gguf_checkpoint(str(tmp_path / "tiny.gguf")), []
    with compat.gguf_fields_by(lambda path: read.append(path) or read_header(path)):
        found = load_gguf_checkpoint(str(tmp_path / "tiny.gguf"))
    for parts in (found, expected):
        parts.pop("ignore")  # what the library's reader counts itself
    assert found == expected
    assert read == [tmp_path / "tiny.gguf"] and expected["config"]["hidden_size"] == 32


def test_a_model_forgets_where_it_came_from(tmp_path):
    from transformers import AutoModelForCausalLM

    tiny_model("qwen2").save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.name_or_path == str(tmp_path)
    compat.forget_origin(model)
    assert model.config.name_or_path == model.name_or_path == ""
    assert "_name_or_path" not in {name for name, value in model.config.to_dict().items() if value}


def test_the_commit_of_a_configuration_is_told_where_the_library_noted_it():
    """Releases before 5.24 note it; newer ones do not, and then it is not known."""
    config = tiny_model("qwen2").config
    assert compat.commit_of(config) is None
    config._commit_hash = "a" * 40
    assert compat.commit_of(config) == "a" * 40


def test_a_model_that_was_quantised_is_an_ordinary_one(tmp_path):
    model = tiny_model("qwen2")
    model.hf_quantizer, model.quantization_method, model.is_quantized = object(), "gguf", True
    model.config.quantization_config = {"quant_method": "gguf"}
    compat.forget_quantisation(model)
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in (tmp_path / "config.json").read_text()
    assert not getattr(model, "is_quantized", False)


def test_a_process_trains_on_one_device_at_most(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    assert arguments.n_gpu == 0  # worked out when it is asked for
    arguments._n_gpu = 4
    assert arguments.n_gpu == 4
    compat.use_one_device(arguments, torch.device("cpu"))
    assert arguments.n_gpu == 1


def test_a_trainer_takes_rows_in_the_order_of_their_dataset(tmp_path):
    @compat.sequential_sampling
    class InOrder(Trainer):
        pass

    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", remove_unused_columns=False
    )
    rows = [{"row": torch.tensor(row)} for row in range(64)]

    def order(kind: type[Trainer]) -> list[int]:
        trainer = kind(model=torch.nn.Linear(1, 1), args=arguments, train_dataset=rows)
        return [int(row) for batch in trainer.get_train_dataloader() for row in batch["row"]]

    assert order(InOrder) == list(range(64)) != order(Trainer)
    assert sorted(order(Trainer)) == list(range(64))


def test_tensors_that_share_their_memory_share_a_number_on_the_meta_device():
    whole, other = torch.empty(4, 4, device="meta"), torch.empty(4, 4, device="meta")
    assert compat.storage_of(whole) == compat.storage_of(whole[1:]) != compat.storage_of(other)


def test_tasks_of_lm_eval_are_read_and_built(tmp_path):
    from lm_eval.tasks import TaskManager

    (tmp_path / "data.jsonl").write_text('{"question": "?", "answer": "!"}\n')
    (tmp_path / "code.py").write_text("def text(doc):\n    return doc['question']\n")
    (tmp_path / "base.yaml").write_text("output_type: generate_until\ntest_split: test\ndoc_to_target: answer\n")
    (tmp_path / "one.yaml").write_text(
        "include: base.yaml\ntask: one\ntag: some\ndataset_path: json\ndoc_to_text: !function code.text\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'data.jsonl'}}}}}\n"
    )
    (tmp_path / "all.yaml").write_text("group: all\ntask: [one]\n")
    config = compat.read_task_file(tmp_path / "one.yaml")
    assert (config["task"], config["output_type"]) == ("one", "generate_until")
    assert str(config["doc_to_text"]).endswith("code.text")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    task = compat.build_task(manager, "one", {"repeats": 3})
    assert (task.config.repeats, task.doc_to_text(task.eval_docs[0])) == (3, "?")
    assert [one.task_name for one in compat.build_task(manager, "all", {}).get_all_tasks()] == ["one"]
    assert [one.task_name for one in compat.build_task(manager, "some", {})] == ["one"]
    assert manager.task_index["some"].cfg is None and "group" in manager.task_index["all"].cfg


def test_the_filters_of_a_task_are_there(tmp_path):
    from lm_eval.api.task import ConfigurableTask

    (tmp_path / "data.jsonl").write_text('{"question": "?", "answer": "!"}\n')
    task = ConfigurableTask(
        config={
            "task": "one",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(tmp_path / "data.jsonl")}},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{answer}}",
            "filter_list": [{"name": "first", "filter": [{"function": "take_first"}]}],
        }
    )
    assert [len(ensemble.filters) for ensemble in compat.filters_of(task)] == [1]


def test_codecarbon_says_how_it_measures(tmp_path):
    from codecarbon import OfflineEmissionsTracker

    tracker = OfflineEmissionsTracker(
        country_iso_code="FRA", output_methods=[], output_dir=str(tmp_path), allow_multiple_runs=True, gpu_ids=[]
    )
    tracker.start()
    tracker.stop()
    parts = {type(part).__name__: compat.mode_and_watts(part) for part in compat.measured_hardware(tracker)}
    mode, watts = parts["CPU"]
    assert isinstance(mode, str) and watts > 0
    assert compat.mode_and_watts(object()) == (None, None)


def test_the_arguments_of_a_parser_are_listed():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--one")
    parser.add_argument("two")
    assert [action.dest for action in compat.actions_of(parser)] == ["one", "two"]
