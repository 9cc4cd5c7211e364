"""What is said before a training starts, and the picture afterwards."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab import RecoveryConfig
from optimum_flab.families.files import known_family
from optimum_flab.records.report import RecoveryEstimate
from optimum_flab.recovery.estimates import (
    disk_needed,
    estimate_text,
    most_memory,
    rows_at_once,
    seconds_per_row,
    seconds_per_token,
    training_memory,
    training_seconds,
)
from optimum_flab.recovery.sizes import TrainingSizes, distillation_share, training_sizes
from optimum_flab.recovery.training import curve_of
from optimum_flab.settings.recovery import OPTIMIZERS
from optimum_flab.texts.packing import pack

from ..conftest import tiny_model


QWEN = SimpleNamespace(hidden_size=896, num_hidden_layers=24, vocab_size=28_672)


def memory(length: int = 256, micro: int = 4, checkpointing: bool = False, dtype: str = "bfloat16") -> int:
    config = RecoveryConfig(sequence_length=length, gradient_checkpointing=checkpointing, dtype=dtype)
    sizes = TrainingSizes(10, 8, micro, 8 // micro, 5)
    return training_memory(QWEN, 3136, 272_000_000, 13_600_000, sizes, config, torch.device("cpu"))


def test_processes_that_share_the_weights_need_a_part_of_the_memory():
    """Qwen2.5-Coder-7B without 22% of its parameters, all of them trained, on cards of 24 GB."""
    large = SimpleNamespace(hidden_size=3584, num_hidden_layers=28, vocab_size=38_656)
    config = RecoveryConfig(method="full", dtype="bfloat16", sequence_length=512)

    def memory_of(processes: int, shard: bool, device: str = "cuda", **changes) -> int:
        sizes = TrainingSizes(10, 8, 1, 8 // processes, 5)
        found = config.model_copy(update={"shard": shard, **changes})
        return training_memory(large, 16_512, 5_940_000_000, 5_660_000_000, sizes, found, torch.device(device))

    assert memory_of(8, True) < 24e9 < memory_of(4, True) < memory_of(2, True) < memory_of(8, False)
    assert memory_of(8, True, gradient_checkpointing=True) < 16e9
    moments = [memory_of(8, False, optim=name) - memory_of(8, False, optim="sgd") for name in OPTIMIZERS]
    assert moments == [8 * 5_660_000_000, 2 * 5_660_000_000, 0, 0]
    assert memory_of(8, False) > 100e9  # whose weights, gradients and moments each has
    # the pruned model stays in host memory, which is that of the device only on a CPU
    assert memory_of(8, True, "cpu") - memory_of(8, True) == 2 * 5_940_000_000


def test_memory_grows_with_the_batch_and_shrinks_with_checkpointing():
    assert memory() < memory(length=512) < memory(length=512, dtype="float32")
    assert memory(micro=4) < memory(micro=8)
    assert memory(checkpointing=True) < memory()
    assert 2e9 < memory() < 6e9  # the weights alone are 0.5e9, and all of it fits a laptop


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 500), st.integers(1, 8), st.integers(1, 4), st.floats(0.1, 5), st.integers(1, 20))
def test_sizes_share_every_batch_and_cover_the_epochs(rows, per_process, processes, epochs, evaluations):
    batch = per_process * processes
    config = RecoveryConfig(data="x", batch_size=batch, epochs=epochs, evaluations=evaluations)
    sizes = training_sizes(config, rows, processes)
    assert sizes.micro_batch_size * sizes.accumulation * processes == batch
    assert (sizes.steps - 1) * batch < max(epochs * rows, 1) <= sizes.steps * batch or sizes.steps == 1
    assert 1 <= sizes.evaluate_every <= sizes.steps
    assert sizes.evaluate_every * evaluations >= sizes.steps
    # the same steps for one process
    assert training_sizes(config, rows).steps == sizes.steps


def test_more_rows_a_pass_where_memory_is_to_spare_and_a_cast_of_the_weights_is_saved():
    model = tiny_model("qwen2")
    run = SimpleNamespace(processes=SimpleNamespace(number=1))
    inputs = SimpleNamespace(model=model, family=known_family("qwen2"), run=run, device=torch.device("cpu"))

    def rows(available, method="full", dtype="bfloat16", **asked):
        config = RecoveryConfig(data="x", dtype=dtype, **asked).for_method(method)
        found = rows_at_once(inputs, config, available)
        assert config.batch_size % found == 0
        taken = most_memory(inputs, config.model_copy(update={"micro_batch_size": found}))
        assert found == (config.micro_batch_size or 1) or taken <= available
        return found

    for method in ("full", "lora"):
        needs = [
            most_memory(inputs, RecoveryConfig(data="x", dtype="bfloat16", micro_batch_size=n).for_method(method))
            for n in (1, 2, 4)
        ]
        assert needs == sorted(set(needs))
        assert [rows(needed / 0.75 + 1, method) for needed in (0, *needs)] == [1, 1, 2, 4]
        assert rows(math.inf, method) == 4
    assert rows(math.inf, dtype="float32") == 1
    assert rows(math.inf, sequence_length=256, batch_size=12) == 6
    assert rows(math.inf, micro_batch_size=8) == 8
    assert rows(0, micro_batch_size=8) == 8


def test_time_is_that_of_steps_and_evaluations_and_shared_by_processes():
    sizes = TrainingSizes(100, 8, 4, 2, 25)
    assert training_seconds(0.1, sizes, 12, 1) == pytest.approx(0.1 * (800 + 5 * 12 / 3))
    assert training_seconds(0.1, sizes, 12, 2) == pytest.approx(0.1 * (800 + 5 * 12 / 3) / 2)


def test_disk_counts_three_checkpoints_in_float32_the_cache_and_the_result():
    assert disk_needed(0, 100, 2, 50, 0) == 250
    assert disk_needed(80, 0, 2, 0, 10) == 3 * 30 * 4  # weights and two moments of each
    assert disk_needed(80, 100, 2, 0, saved=100) == 3 * 120 * 4 + 200


@pytest.mark.parametrize("loss, share", [("distillation", 1), ("cross-entropy", 0), ("both", 0.75)])
def test_the_losses_share_one(loss, share):
    assert distillation_share(RecoveryConfig(data="x", loss=loss, cross_entropy_share=0.25)) == share


def test_the_curve_has_a_point_for_every_loss_that_was_logged():
    history = [
        {"loss": 2.0, "step": 1},
        {"eval_loss": 1.5, "step": 2},
        {"loss": math.nan, "step": 3},
        {"epoch": 1},
    ]
    curve = curve_of(history, 3.0)
    assert curve[0] == {"step": 0, "validation_loss": 3.0}
    assert [point["step"] for point in curve] == [0, 1, 2, 3]


def test_answers_are_timed_only_where_there_are_any():
    model = tiny_model("qwen2")
    assert seconds_per_token(model, 2) > 0
    estimate = RecoveryEstimate(memory_bytes=1, disk_bytes=1, seconds=60.0)
    assert "answers" not in estimate_text(estimate)
    estimate = estimate.model_copy(update={"answer_seconds": 600.0})
    assert "the dense model's answers take about 10 min 0 s; training" in estimate_text(estimate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_pass_is_timed_forward_and_back(dtype):
    model = tiny_model("qwen2").requires_grad_(True)
    assert seconds_per_row(model, pack([[1, 2, 3]] * 4, 3, 0), 2, dtype) > 0
    assert all(parameter.grad is not None for parameter in model.parameters())
