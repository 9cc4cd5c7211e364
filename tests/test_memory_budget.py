"""How much memory may be taken, and where the weights are then."""

import shutil

import pytest
import torch
from safetensors.torch import load_file

from optimum_flab import FlabOptimizer, FlabPrunerConfig
from optimum_flab.checkpoints.loading import load_dense
from optimum_flab.families import family_for
from optimum_flab.pruning.memory_budget import bytes_of, check_disk, free_memory, memory_needs, weights_fit
from optimum_flab.pruning.resolution import described
from optimum_flab.utils.errors import ConfigurationError, FlabError
from optimum_flab.utils.memory import available_memory

from .conftest import saved, tiny_model


@pytest.mark.parametrize(
    ("text", "size"),
    [("6GB", 6 * 10**9), ("1.5 GiB", 3 << 29), ("512mb", 512 * 10**6), ("7KB ", 7000), (42, 42), (6e9, 6 * 10**9)],
)
def test_sizes_as_people_write_them(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize(
    "text", ["", "GB", "six", "-1GB", "0", "6 XB", "6GB/s", "1e9", "nan", float("inf"), None, 0.5]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigurationError, match=r"memory_budget: .* is not a size"):
        bytes_of(text)


CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def fits(monkeypatch):
    """Whether a budget suffices for a model that takes 5 to 20 GB on the CPU, and 9 to 15 GB on a GPU."""
    needs = {"cpu": (5 * 10**9, 20 * 10**9)}
    monkeypatch.setattr(
        "optimum_flab.pruning.memory_budget.memory_needs",
        lambda *arguments: needs.get(arguments[-1].type, (9 * 10**9, 15 * 10**9)),
    )
    return lambda budget, device: weights_fit(None, budget, torch.float32, device)


def test_a_budget_says_where_the_weights_are(fits):
    assert fits(20 * 10**9, CPU) and not fits(6 * 10**9, CPU)
    with pytest.raises(ConfigurationError, match=r"4\.0 GB is less than the 5\.0 GB .* \(20\.0 GB with all"):
        fits(4 * 10**9, CPU)
    assert fits(15 * 10**9, GPU) and not fits(10 * 10**9, GPU)
    with pytest.raises(
        ConfigurationError, match=r"6\.0 GB is less than the 9\.0 GB .* on cuda:0 .*15\.0 GB.* device cpu"
    ):
        fits(6 * 10**9, GPU)


def test_what_a_device_has_free_decides_without_a_budget(fits, monkeypatch):
    assert fits(None, torch.device("mps"))  # which does not say
    monkeypatch.setattr("optimum_flab.pruning.memory_budget.available_memory", lambda: 10**9)
    assert not fits(None, CPU)  # the disk holds what memory does not
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 10**9)
    for free, suffices in ((24 * 10**9, True), (12 * 10**9, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 48 * 10**9))
        assert fits(None, GPU) == suffices
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 * 10**9, 48 * 10**9))
    with pytest.raises(ConfigurationError, match=r"cuda:0 has 8\.0 GB free, which is less than the 9\.0 GB"):
        fits(None, GPU)


def request_of(model, config):
    return described(config, model, family_for(model.config), 0, torch.bfloat16)


def test_more_of_anything_needs_more_and_files_need_less():
    model = tiny_model("llama")

    def needs(device=CPU, dtype=torch.bfloat16, search_tokens=1024, **data):
        config = FlabPrunerConfig(data=data, layers={"search_tokens": search_tokens})
        return memory_needs(request_of(model, config), dtype, device)

    (in_files, in_memory), (layer_by_layer, on_device) = needs(), needs(GPU)
    assert in_files < layer_by_layer < on_device < in_memory
    for more in (needs(dtype=torch.float32), needs(batch_size=64), needs(search_tokens=1 << 16)):
        assert more[0] > in_files and more[1] > in_memory
    longer = needs(calibration_tokens=1 << 16)
    assert longer[1] - in_memory > 2 * (longer[0] - in_files) > 0


def test_heads_of_their_own_change_nothing_of_the_hidden_states():
    config, least = FlabPrunerConfig(layers={"enabled": False}), []
    for tied in (False, True):
        model = tiny_model("llama", tie_word_embeddings=tied)
        least.append(memory_needs(request_of(model, config), torch.bfloat16, CPU)[0])
    assert least[0] == least[1]


def test_a_disk_that_is_too_small_is_said_before_the_work(tmp_path, monkeypatch):
    saved(tiny_model("llama", 600), tmp_path / "dense")
    dense = load_dense(tmp_path / "dense", device="cpu", in_memory=False)
    check_disk(tmp_path, dense, request_of(dense.model, FlabPrunerConfig()))
    huge = request_of(dense.model, FlabPrunerConfig(data={"calibration_tokens": 10**8}))
    whole = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: whole._replace(free=10**9))
    with pytest.raises(FlabError, match=r"needs [\d,.]+ GB temporarily .* has [\d,.]+ GB free"):
        check_disk(tmp_path, dense, huge)
    dense.computed_on = GPU  # which holds its matrices and hidden states itself
    check_disk(tmp_path, dense, huge)
    assert not dense.converted_tensors()
    assert load_dense(tmp_path / "dense", device="cpu", dtype="bfloat16", in_memory=False).converted_tensors()


def test_a_control_group_limits_what_is_available_and_processes_share_it(tmp_path, monkeypatch):
    free = available_memory(tmp_path)
    assert free > 1 << 20
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 400000\nactive_file 100000\ninactive_file 200000\n")
    assert available_memory(tmp_path) > 1 << 20
    (tmp_path / "memory.max").write_text("1000000\n")
    assert available_memory(tmp_path) == 600_000
    monkeypatch.setattr("optimum_flab.pruning.memory_budget.available_memory", lambda: 600_000)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert free_memory(torch.device("cpu")) == 300_000


def test_a_model_is_left_in_its_files_where_the_budget_asks_for_it(tmp_path, monkeypatch, capsys):
    saved(tiny_model("llama", 600), tmp_path)
    monkeypatch.setattr("optimum_flab.pruning.memory_budget.memory_needs", lambda *arguments: (1000, 2000))

    def loaded(**options):
        return FlabOptimizer.from_pretrained(tmp_path, config=FlabPrunerConfig(), **options).dense

    in_memory, in_files = loaded(memory_budget=2000), loaded(memory_budget="1.5KB")
    assert in_memory.stored is None and in_files.stored is not None
    assert in_files.notes == capsys.readouterr().err.splitlines()[-1:]
    assert "stay in their files" in in_files.notes[-1] and not in_memory.notes
    assert loaded(in_memory=None).stored is None  # this machine has as much
    with pytest.raises(ConfigurationError, match="memory_budget"):
        loaded(memory_budget=999)
    (tmp_path / "model.safetensors").rename(tmp_path / "other")
    torch.save(load_file(tmp_path / "other"), tmp_path / "pytorch_model.bin")
    assert loaded(memory_budget=2000).stored is None
    with pytest.raises(ConfigurationError, match="its weights cannot stay in their files"):
        loaded(memory_budget=1500)
