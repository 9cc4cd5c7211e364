"""How long a pruning may take, and how much text there is time for."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimum_flab import FlabOptimizer, FlabPrunerConfig
from optimum_flab.families import family_for
from optimum_flab.pruning.components import sizes_of
from optimum_flab.pruning.time_budget import (
    BASE,
    Pace,
    chosen_tokens,
    expected_seconds,
    measured_pace,
    seconds_of,
)
from optimum_flab.utils.errors import ConfigurationError

from .conftest import byte_level_tokenizer, request_for, small_config, tiny_model
from .families.zoo import member


SIZES = sizes_of(tiny_model("llama"), family_for(tiny_model("llama").config))
SLOW = Pace(1e6, 1e6, 1e6)


def seconds_for(config, sizes, pace, processes=1, **facts):
    return expected_seconds(request_for(config, sizes, **facts), pace, config.data.tokens, processes)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30min", 1800), ("1.5h", 5400), ("90s", 90), ("2 H", 7200), (45, 45), ("7", 7)]
)
def test_durations_as_people_write_them(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-3min", "0", "3 days", "nan", "min", "9" * 400 + "h"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigurationError, match=r"time_budget: .* is not a duration"):
        seconds_of(text)


@given(tokens=st.integers(2048, 1 << 17), share=st.floats(0.01, 3), searches=st.booleans())
def test_what_is_chosen_fits_and_twice_as_much_text_does_not(tokens, share, searches):
    asked = {"target_ratio": 0.3} if searches else {"intermediate_size": 32}
    config = FlabPrunerConfig(**asked, data={"calibration_tokens": tokens})
    budget = share * seconds_for(config, SIZES, SLOW)
    try:
        most, note = chosen_tokens(partial(expected_seconds, request_for(config, SIZES), SLOW), tokens, 2048, budget)
    except ConfigurationError:
        least = FlabPrunerConfig(**asked, data={"calibration_tokens": 2048})
        assert seconds_for(least, SIZES, SLOW) > budget
        return
    chosen = FlabPrunerConfig(**asked, data={"calibration_tokens": most})
    assert seconds_for(chosen, SIZES, SLOW) <= budget
    assert f"{most:,} calibration tokens" in note
    if most < tokens:
        twice = FlabPrunerConfig(**asked, data={"calibration_tokens": min(tokens, 2 * most + 1)})
        assert seconds_for(twice, SIZES, SLOW) > budget


def test_a_faster_device_takes_less_and_never_less_than_the_rest():
    config, here = FlabPrunerConfig(target_ratio=0.3), measured_pace(torch.device("cpu"), torch.float32)
    slow, fast = (seconds_for(config, SIZES, pace) for pace in (SLOW, here))
    assert BASE < fast < slow


def test_a_pruning_says_what_it_chose_and_refuses_what_cannot_be(tmp_path, monkeypatch):
    sizes = {"layers": {"enabled": False}, "intermediate_size": 24, "ffn": {"multiple_of": 8}}
    config = small_config(tmp_path, **sizes)
    optimizer = FlabOptimizer(tiny_model("llama", 600), byte_level_tokenizer(600))
    with pytest.raises(ConfigurationError, match=r"1 s is less than the .* calibration tokens"):
        optimizer.prune(config, cache_dir=tmp_path / "work", time_budget=1)
    assert not list((tmp_path / "work").glob("*/value"))
    pruned = optimizer.prune(config, cache_dir=tmp_path / "work", time_budget="2h")
    (note,) = [note for note in pruned.report.notes if "time budget" in note]
    assert note.startswith("time budget of 2 h 0 min: 256 calibration tokens, ")

    def slower(*arguments):
        raise AssertionError("what was chosen stays, however fast the machine is now")

    monkeypatch.setattr("optimum_flab.pruning.time_budget.measured_pace", slower)
    again = optimizer.prune(config, cache_dir=tmp_path / "work", time_budget="2h")
    assert again.report.notes == pruned.report.notes


def test_layers_that_go_take_a_narrowing_and_a_ranking():
    alone, layers = FlabPrunerConfig(layers={"enabled": False}), FlabPrunerConfig(num_hidden_layers=3)
    without = FlabPrunerConfig(num_hidden_layers=3, ffn={"enabled": False})
    nothing, all_of_it, ranking = (seconds_for(config, SIZES, SLOW) for config in (alone, layers, without))
    assert nothing < ranking < all_of_it


def test_every_process_predicts_what_formats_cost():
    def seconds(kind):
        return seconds_for(FlabPrunerConfig(target_size="20KB", target_type=kind), SIZES, SLOW, processes=1000)

    assert seconds(None) > 2 * seconds("f16")


def test_several_processes_and_idle_experts_take_less():
    config = FlabPrunerConfig(target_ratio=0.3)
    mixture = member("qwen3_moe")
    sizes = sizes_of(mixture, family_for(mixture.config))
    assert seconds_for(config, SIZES, SLOW, processes=2) < seconds_for(config, SIZES, SLOW)
    assert seconds_for(config, sizes, SLOW, routed_share=0.25) < seconds_for(config, sizes, SLOW)
