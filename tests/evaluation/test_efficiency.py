from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import LAYERS, VOCABULARY, WIDTH, byte_level_tokenizer, tiny_model
from families.zoo import MIXTURES, member
from rope import rope_of
from torch.utils.flop_counter import FlopCounterMode

from optimum_flab.checkpoints.finding import ModelFiles
from optimum_flab.checkpoints.stored_model import StoredModel
from optimum_flab.evaluation.efficiency import (
    EfficiencyReport,
    apart,
    check_output,
    measure_efficiency,
    measuring,
    running,
)
from optimum_flab.evaluation.efficiency.apart import check_country, describe_method, measure_apart
from optimum_flab.evaluation.efficiency.report import efficiency_table, notes, spread
from optimum_flab.evaluation.efficiency.running import (
    decode_speed,
    enough_memory,
    generate,
    prompt_ids,
    time_interleaved,
)
from optimum_flab.evaluation.efficiency.sizes import count_flops, weight_files
from optimum_flab.records.results import (
    EfficiencyRecord,
    EnergyEstimate,
    Flops,
    MeasuredModel,
    Spread,
    TimedGeneration,
)
from optimum_flab.settings.efficiency import BenchSettings
from optimum_flab.utils.errors import ConfigurationError, FlabError


HIDDEN, HEADS, HEAD_DIM, KV_HEADS = 32, 2, 16, 1
DENSE_VOCABULARY, PRUNED_VOCABULARY = 600, 400


def saved(folder, vocab_size, family="qwen2", **changes):
    tiny_model(family, vocab_size=vocab_size, **changes).save_pretrained(folder)
    byte_level_tokenizer(vocab_size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return saved(folder / "dense", DENSE_VOCABULARY), saved(folder / "pruned", PRUNED_VOCABULARY, intermediate_size=32)


@pytest.fixture(scope="module")
def report(checkpoints, tmp_path_factory):
    dense, pruned = checkpoints
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("cwd"))
        measured = measure_efficiency(
            pruned,
            dense,
            BenchSettings(
                prompt_tokens=8,
                new_tokens=4,
                batch_size=2,
                repeats=3,
                warmup=1,
                energy_seconds=0.3,
                country="fra",
            ),
            device="cpu",
        )
        assert list(Path.cwd().iterdir()) == []  # codecarbon writes nothing
    return measured


def spread_of(median, lower, upper, repeats) -> Spread:
    return Spread(median=median, lower_quartile=lower, upper_quartile=upper, repeats=repeats)


def run_of(first, last) -> TimedGeneration:
    return TimedGeneration(first_token=first, last_token=last)


def measured(**changes) -> MeasuredModel:
    values = {
        "name": "a",
        "dtype": "float32",
        "parameters": 1000,
        "checkpoint_bytes": 4_000_000,
        "peak_rss_bytes": 300_000_000,
        "rss_before_loading_bytes": 200_000_000,
        "flops_per_token": Flops(prefill=1500.0, decode=2000),
        "time_to_first_token": {1: spread_of(0.2, 0.1, 0.3, 5), 8: spread_of(1.0, 1.0, 1.0, 5)},
        "tokens_per_second": {1: spread_of(20.0, 19.0, 21.0, 5), 8: spread_of(100.0, 90.0, 110.0, 5)},
        "runs": {1: (run_of(0.2, 0.4),), 8: (run_of(1.0, 2.0),)},
    }
    return MeasuredModel(**{**values, **changes})


def report_on(**models) -> EfficiencyReport:
    settings = BenchSettings()
    return EfficiencyReport(
        workload=settings.workload,
        device="cpu",
        machine="a machine",
        table=efficiency_table(models),
        models=models,
        notes=("a note",),
    )


# --- arithmetic ----------------------------------------------------------------------------------------------------


def test_the_spread_is_the_median_with_quartiles():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == spread_of(3.0, 2.0, 4.0, 5)
    assert spread([1.0, 2.0]) == spread_of(1.5, 1.25, 1.75, 2)


def test_the_first_token_does_not_count_for_the_speed_of_decoding():
    assert decode_speed(run_of(10.0, 12.0), batch_size=4, new_tokens=11) == 20.0


# --- FLOPs ---------------------------------------------------------------------------------------------------------


# older versions of transformers compute the angles of rotary positions by a matrix product
ANGLES = 3e-4


def by_hand(tokens: int, context: int, vocabulary: int = VOCABULARY) -> int:
    """FLOPs of one pass with the output head at the last token: two per multiplication."""
    attention = HIDDEN * HEAD_DIM * (2 * HEADS + 2 * KV_HEADS) * tokens  # q, o, k, v
    attention += 2 * HEADS * HEAD_DIM * tokens * context  # scores, and the values they weigh
    mlp = 3 * HIDDEN * WIDTH * tokens
    return 2 * (LAYERS * (attention + mlp) + HIDDEN * vocabulary)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("length", [1, 16])
def test_flops_are_those_counted_by_hand(family, length):
    counted = count_flops(tiny_model(family).config, length)
    assert counted.prefill == pytest.approx(by_hand(length, length) / length, rel=ANGLES)
    assert counted.decode == pytest.approx(by_hand(1, length + 1), rel=ANGLES)


@pytest.mark.parametrize("model_type", MIXTURES)
def test_of_a_mixture_the_experts_are_counted_that_a_token_is_sent_to(model_type):
    model = member(model_type)
    model.config._experts_implementation = "eager"
    with FlopCounterMode(display=False) as counter:
        model(torch.arange(7)[None], use_cache=False, logits_to_keep=1)
    assert count_flops(model.config, 7).prefill == counter.get_total_flops() / 7


def test_a_sliding_window_shortens_the_context_of_decoding():
    assert count_flops(tiny_model("mistral").config, 16).decode == pytest.approx(by_hand(1, 8), rel=ANGLES)


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("gpt2", {"pad_token_id": 3}),
        ("llama", {"rope_parameters": rope_of("llama", "dynamic")}),
        ("gemma3_text", {"rope_parameters": rope_of("gemma3_text", "dynamic")}),
    ],
)
def test_what_depends_on_tokens_is_no_product(model_type, changes):
    config = member(model_type, **changes).config
    before = copy.deepcopy(config.to_dict())
    assert count_flops(config, 16) == count_flops(member(model_type).config, 16)
    assert config.to_dict() == before


# --- running -------------------------------------------------------------------------------------------------------


def test_models_are_timed_in_turns_and_warm_up_does_not_count(monkeypatch):
    calls = []

    def generated(model, prompt, new_tokens):
        calls.append((model, len(prompt)))
        return run_of(len(calls), len(calls) + 1)

    monkeypatch.setattr(running, "generate", generated)
    models = {name: SimpleNamespace(name=name, model=name) for name in "ab"}
    times = time_interleaved(models, torch.zeros(4, 1), BenchSettings(batch_size=4, warmup=1, repeats=2))
    first, second = [("a", 1), ("b", 1), ("a", 4), ("b", 4)], [("b", 1), ("a", 1), ("b", 4), ("a", 4)]
    assert calls == [*first, *second, *first]
    assert [taken.first_token for taken in times["a"][1]] == [6, 9]
    assert [taken.first_token for taken in times["b"][4]] == [7, 12]


def test_prompts_hold_ordinary_tokens_of_every_vocabulary_and_are_the_same_each_time():
    def known(size, special, rows):
        tokenizer = type("Tokenizer", (), {"all_special_ids": special, "__len__": lambda self: size})()
        return StoredModel(None, SimpleNamespace(vocab_size=rows), tokenizer)

    models = [known(10, [0, 3], 12), known(8, [5], 6)]
    prompt = prompt_ids(models, 4, 200)
    assert prompt.shape == (4, 200)
    assert prompt.dtype == torch.int64
    assert set(prompt.flatten().tolist()) == {1, 2, 4}
    assert torch.equal(prompt, prompt_ids(models, 4, 200))
    with pytest.raises(FlabError, match="no ids in common"):
        prompt_ids([known(2, [0], 2), known(5, [1], 5)], 1, 1)


def test_neither_an_end_of_text_token_nor_the_sampling_of_a_checkpoint_changes_the_work():
    model, prompt = tiny_model("qwen2"), torch.arange(6).reshape(2, 3)
    generated = []
    plain = model.generate

    def recorded(*arguments, **options):
        generated.append(plain(*arguments, **options))
        return generated[-1]

    model.generate = recorded
    generate(model, prompt, 5)
    # what it generates is now what ends a text
    model.generation_config.update(eos_token_id=generated[0][:, 3].tolist(), do_sample=True, temperature=9.0)
    run = generate(model, prompt, 5)
    assert generated[0].shape == (2, 8)
    assert torch.equal(*generated)
    assert 0 < run.first_token < run.last_token


def test_a_model_that_stops_early_is_not_timed():
    model = tiny_model("qwen2")
    model.generate = lambda ids, **options: ids
    with pytest.raises(FlabError, match="generated 0 tokens where 5 were asked for"):
        generate(model, torch.ones(1, 3, dtype=torch.int64), 5)


def test_running_out_of_memory_says_what_to_lower():
    with pytest.raises(FlabError, match="'a' ran out of memory; lower `batch_size`"), enough_memory("a"):
        raise torch.OutOfMemoryError
    with pytest.raises(RuntimeError, match="of ours"), enough_memory("a"):
        raise RuntimeError("a fault of ours")


# --- files ---------------------------------------------------------------------------------------------------------


def test_only_the_weight_files_that_are_loaded_count(tmp_path):
    files = ModelFiles("a", str(tmp_path), tmp_path)
    assert weight_files(files) == []
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(b"whole")
        assert weight_files(files) == [tmp_path / name]
    assert weight_files(replace(files, gguf=tmp_path / "a.gguf")) == [tmp_path / "a.gguf"]


def test_results_are_never_written_over_others_unasked(tmp_path):
    folder = tmp_path / "new" / "out"
    report_on(model=measured()).save(folder)
    written = EfficiencyRecord.model_validate_json((folder / "flab_efficiency.json").read_text(encoding="utf-8"))
    assert written.model_dump() == report_on(model=measured()).model_dump()
    (folder / "mine.txt").write_text("stays", encoding="utf-8")
    changed = report_on(model=measured(parameters=7))
    with pytest.raises(FlabError, match="flab_efficiency.json exists; name another folder, or set `overwrite`"):
        changed.save(folder)
    changed.save(folder, overwrite=True)
    assert (
        json.loads((folder / "flab_efficiency.json").read_text(encoding="utf-8"))["models"]["model"]["parameters"] == 7
    )
    assert sorted(path.name for path in folder.iterdir()) == ["flab_efficiency.json", "mine.txt"]
    with pytest.raises(FlabError, match="Not a directory"):
        check_output(folder / "mine.txt")


# --- checks --------------------------------------------------------------------------------------------------------


def test_all_faults_of_the_workload_are_named_at_once():
    with pytest.raises(ConfigurationError, match="new_tokens: 1 .*\n  batch_size: 0 .*\n  energy_seconds: -1.0 "):
        BenchSettings(batch_size=0, new_tokens=1, energy_seconds=-1.0)


def test_countries_are_those_that_codecarbon_knows():
    assert check_country(None) is None
    assert check_country("deu") == "DEU"
    with pytest.raises(ConfigurationError, match="'Germany' is not one of the .* three-letter ISO codes"):
        check_country("Germany")


def test_a_prompt_too_long_for_a_model_is_refused_before_any_work(checkpoints, monkeypatch):
    monkeypatch.setattr(measuring, "measure_apart", lambda *_: pytest.fail("it began"))
    with pytest.raises(ConfigurationError, match="`prompt_tokens` . `new_tokens`: 257 is more than the 256 positions"):
        measure_efficiency(checkpoints[0], None, BenchSettings(prompt_tokens=250, new_tokens=7))


def test_models_are_computed_in_their_own_number_format_unless_another_is_named(tmp_path):
    tiny_model("qwen2", vocab_size=PRUNED_VOCABULARY, dtype=torch.bfloat16).bfloat16().save_pretrained(tmp_path)
    byte_level_tokenizer(PRUNED_VOCABULARY).save_pretrained(tmp_path)
    once = {"prompt_tokens": 8, "new_tokens": 2, "batch_size": 1, "repeats": 1, "warmup": 0, "energy_seconds": 0}
    for asked, dtype in (({}, "bfloat16"), ({"dtype": "float32"}, "float32")):
        found = measure_efficiency(tmp_path, None, BenchSettings(**once, **asked), device="cpu")
        assert [model.dtype for model in found.models.values()] == [dtype]


# --- the process apart ---------------------------------------------------------------------------------------------


def apart_from_here():
    stored = StoredModel(ModelFiles("no/such/model", "", Path()), None, None)
    return measure_apart(stored, "float32", torch.device("cpu"), torch.ones(1, 1), BenchSettings(energy_seconds=0))


def test_a_fault_of_the_process_apart_is_told(monkeypatch):
    with pytest.raises(FlabError, match="^model 'no/such/model' does not exist"):
        apart_from_here()
    monkeypatch.setattr(apart, "WORKER", "raise SystemExit('it broke')")
    with pytest.raises(FlabError, match=r"memory of 'no/such/model' failed \(it broke\)"):
        apart_from_here()
    if sys.platform == "win32":  # has no signals
        return
    monkeypatch.setattr(apart, "WORKER", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(FlabError, match="was killed, perhaps for its memory; try a lower `batch_size`"):
        apart_from_here()


def test_the_method_of_the_estimate_says_what_was_assumed_and_what_was_read():
    def part(kind, **fields):
        return type(kind, (SimpleNamespace,), {})(**fields)

    assumed = describe_method([part("RAM"), part("CPU", _mode="cpu_load", _tdp=85)])
    assert "RAM from assumed watts per memory module" in assumed
    assert "the CPU's power meter cannot be read, so 85 W" in assumed
    assert "times the share of it that this process used" in assumed
    assert "times a half" in describe_method([part("CPU", _mode="constant", _tdp=85)])
    assert describe_method([part("CPU", _mode="intel_rapl", _tdp=85), part("GPU")]) == (
        "CPU read from intel_rapl, for the whole machine; GPU read from its own counters"
    )


# --- the whole -----------------------------------------------------------------------------------------------------


def test_sizes_are_those_of_the_checkpoints(report, checkpoints):
    for folder, name in zip(checkpoints, ("baseline", "model"), strict=True):
        model = report.models[name]
        assert model.name == str(folder)
        assert model.checkpoint_bytes == (folder / "model.safetensors").stat().st_size
        assert model.dtype == "float32"
    # the output head of qwen2 is its embedding: counted once
    per_layer = (
        2 * HIDDEN * HEADS * HEAD_DIM + 2 * HIDDEN * KV_HEADS * HEAD_DIM  # q, o, k, v
        + (HEADS + 2 * KV_HEADS) * HEAD_DIM  # their biases
        + 3 * HIDDEN * WIDTH + 2 * HIDDEN  # the FFN and the norms
    )  # fmt: skip
    assert report.models["baseline"].parameters == DENSE_VOCABULARY * HIDDEN + LAYERS * per_layer + HIDDEN
    removed = (DENSE_VOCABULARY - PRUNED_VOCABULARY) * HIDDEN + LAYERS * 3 * HIDDEN * (WIDTH - 32)
    assert report.models["baseline"].parameters - report.models["model"].parameters == removed


def test_times_come_from_the_runs_that_count(report):
    assert list(report.models) == ["baseline", "model"]
    for model in report.models.values():
        for batch in (1, 2):
            runs = model.runs[batch]
            assert len(runs) == 3
            assert all(0 < run.first_token < run.last_token for run in runs)
            assert model.time_to_first_token[batch] == spread([run.first_token for run in runs])
            assert model.tokens_per_second[batch] == spread([decode_speed(run, batch, 4) for run in runs])
        assert model.peak_rss_bytes > model.rss_before_loading_bytes > 10_000_000 and model.peak_cuda_bytes is None


def test_energy_is_an_estimate_that_says_how_it_was_made(report):
    for model in report.models.values():
        energy = model.energy
        assert energy.country == "FRA"
        assert energy.generated_tokens % 8 == 0
        assert energy.wh_per_1000_tokens == pytest.approx(
            sum(energy.components_wh.values()) * 1000 / energy.generated_tokens, rel=1e-6
        )
        assert energy.co2e_grams_per_1000_tokens == pytest.approx(
            energy.wh_per_1000_tokens / 1000 * energy.grams_per_kwh, rel=1e-6
        )
        assert energy.components_wh["gpu"] == 0
    said = " ".join(report.notes)
    assert "energy and CO2e are estimates by codecarbon at batch 2" in said
    assert report.models["baseline"].energy.method in said
    assert "(FRA)" in said


TABLE = """
baseline: a, computed in float32
model: b, computed in float32
cpu (a machine); prompts of 128 tokens, 32 generated; medians of 5 rounds with quartiles

                                                   baseline                 model  ratio
parameters                                            1,000                   700  0.70x
checkpoint (MB)                                        4.00                  4.00  1.00x
peak memory of the process (MB)                         300                   300  1.00x
peak memory on CUDA (MB)                                  -                  5.00
FLOPs per prompt token (million)                    0.00150               0.00150  1.00x
FLOPs per generated token (million)                 0.00200               0.00200  1.00x
time to first token, batch 1 (ms)            200 [100, 300]        200 [100, 300]  1.00x
time to first token, batch 8 (ms)      1,000 [1,000, 1,000]  1,000 [1,000, 1,000]  1.00x
generation, batch 1 (tokens/s)            20.0 [19.0, 21.0]     20.0 [19.0, 21.0]  1.00x
generation, batch 8 (tokens/s)              100 [90.0, 110]       100 [90.0, 110]  1.00x
energy per 1000 tokens, estimate (Wh)                     -                  1.00
CO2e per 1000 tokens, estimate (g)                        -                 0.500

note: a note"""
ENERGY = EnergyEstimate(
    wh_per_1000_tokens=1.0,
    co2e_grams_per_1000_tokens=0.5,
    country="world average",
    grams_per_kwh=475.0,
    method="guessed",
    generated_tokens=10,
    seconds=1.0,
    components_wh={},
)


def test_the_table_has_what_was_measured_in_its_units():
    both = report_on(
        baseline=measured(), model=measured(name="b", parameters=700, peak_cuda_bytes=5_000_000, energy=ENERGY)
    )
    assert f"\n{both.to_text()}" == TABLE
    assert {row.metric for row in both.table if row.better == "higher"} == {f"generation, batch {n}" for n in (1, 8)}
    alone = report_on(model=measured())
    assert all(row.ratio is None for row in alone.table) and len(alone.table) == len(both.table) - 3
    assert "ratio" not in alone.to_text().split()


def test_notes_say_what_would_mislead():
    said = " ".join(notes(BenchSettings(), {"baseline": measured(energy=ENERGY), "model": measured(dtype="bfloat16")}))
    assert "guessed; 475 g CO2e per kWh (world average)" in said
    assert "could not estimate the energy of every model" in said
    assert "in its own number format, and these differ" in said
    assert "the same text can take more tokens" in said
    alone = " ".join(notes(BenchSettings(energy_seconds=0), {"model": measured()}))
    assert "Python and its libraries take 200 MB (model) of it" in alone
    assert "quartiles of the times lie up to 100% of a median apart" in alone
    steady = {1: spread_of(0.2, 0.19, 0.21, 5)}
    quiet = " ".join(
        notes(
            BenchSettings(energy_seconds=0), {"model": measured(time_to_first_token=steady, tokens_per_second=steady)}
        )
    )
    for word in ("codecarbon", "formats", "vocabulary", "idle"):
        assert word not in quiet


# --- the command ---------------------------------------------------------------------------------------------------


def command(monkeypatch, *arguments):
    """The exit code of the command, run in this process."""
    from optimum.commands.optimum_cli import main

    monkeypatch.setattr(sys, "argv", ["optimum-cli", "flab", "bench", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.thorough
def test_the_command_measures_prints_and_writes(checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ("--prompt-tokens", 4, "--new-tokens", 2, "--batch-size", 1, "--repeats", 1, "--warmup", 0)
    assert command(monkeypatch, "-m", checkpoints[1], *small, "--energy-seconds", 0, "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert "time to first token, batch 1 (ms)" in shown
    assert "written to flab-bench in " in shown
    written = json.loads((tmp_path / "flab-bench" / "flab_efficiency.json").read_text(encoding="utf-8"))
    assert written["workload"]["prompt_tokens"] == 4 and written["models"]["model"]["energy"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["flab-bench"]

    assert command(monkeypatch, "-m", checkpoints[1]) == 1
    assert "flab_efficiency.json exists; name another folder" in capsys.readouterr().err


def test_bad_usage_ends_with_a_message_and_writes_nothing(checkpoints, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments, code, message in (
        (("-m", checkpoints[1], "--baseline", "./none"), 1, "model './none' does not exist"),
        (("-m", "./none", "--batch-size", "0"), 2, "bench.batch_size (--batch-size): 0 should be greater than 0"),
        (("-m", "./none", "--country", "XYZ"), 2, "(--country): 'XYZ' is not one of"),
        (("-m", "./none", "--device", "nowhere"), 2, "device 'nowhere' cannot be used here"),
    ):
        assert command(monkeypatch, *arguments) == code
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
