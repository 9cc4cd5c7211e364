"""A pruning for the size of a file: formats of matrices, tokens, layers and widths together."""

import json

import pytest

from optimum_flab import FlabOptimizer, PruningPlan
from optimum_flab.export.quantiser import find_quantiser
from optimum_flab.pruning import mixtures, resolution
from optimum_flab.tensors.gguf_header import read_header
from optimum_flab.utils.errors import ConfigurationError, FlabError
from optimum_flab.utils.hashing import file_sha256

from .conftest import flab, saved, small_config, tiny_model


pytestmark = pytest.mark.skipif(find_quantiser() is None, reason="llama.cpp is not installed")
SIZES = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4}


@pytest.fixture
def dense(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return saved(tiny_model("llama", 600, **SIZES), tmp_path / "dense")


def asked(folder):
    """The settings of a pruning of a moment, in a file."""
    path = folder / "small.json"
    path.write_text(json.dumps(small_config(folder).to_dict()), encoding="utf-8")
    return path


def formats(path):
    return {one.name: one.kind.name for one in read_header(path).tensors.values() if len(one.shape) > 1}


def test_one_file_of_the_size_is_written_and_its_plan_makes_it_again(dense, tmp_path):
    told = ("prune", dense, tmp_path / "out", "--config", asked(tmp_path), "--target-size", "190KB")
    said = flab(*told, "--cache-dir", tmp_path / "work")
    assert said.code == 0, said.err
    (path,) = (tmp_path / "out").glob("*.gguf")
    assert path.name.endswith("190KB.gguf") and 0.9 * 190_000 < path.stat().st_size <= 190_000
    plan = PruningPlan.load(tmp_path / "out")
    assert formats(path) == plan.types and len({*plan.types.values()}) > 1
    report = json.loads((tmp_path / "out" / "flab_report.json").read_text())
    (file,) = report["files"]
    assert (
        file["type"] == "mixture" and sum(file["formats"]["ffn_up"].values()) == report["pruned"]["num_hidden_layers"]
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| ffn_up | " in card and f"{file['bits_per_weight']:.2f} bits per weight" in card
    assert flab(*told, "--cache-dir", tmp_path / "work", "--overwrite").code == 0
    assert formats(path) == plan.types
    assert flab("apply", dense, "--plan", tmp_path / "out", tmp_path / "applied").code == 0
    (again,) = (tmp_path / "applied").glob("*.gguf")
    assert formats(again) == plan.types


def test_another_size_measures_no_rounding_again_and_the_same_one_has_the_same_bytes(dense, tmp_path, monkeypatch):
    def pruned(size, out, work="work"):
        optimizer = FlabOptimizer.from_pretrained(dense, device="cpu")
        optimizer.prune(small_config(tmp_path, target_size=size), cache_dir=tmp_path / work)
        optimizer.save_pretrained(tmp_path / out)
        return file_sha256(optimizer.export_gguf(tmp_path / out / "x.gguf").files[0].path)

    first = pruned("190KB", "first")
    assert pruned("190KB", "other", "other-work") == first
    with monkeypatch.context() as patch:
        patch.setattr(mixtures, "sensitivities", None)
        assert pruned("200KB", "larger") != first


def test_where_rounding_costs_much_less_of_the_body_may_stay(dense, tmp_path):
    optimizer = FlabOptimizer.from_pretrained(dense, device="cpu")
    pruned = optimizer.prune(small_config(tmp_path, target_size="120KB"), cache_dir=tmp_path / "work")
    assert pruned.report.removed_body_ratio > 0
    written = optimizer.export_gguf(tmp_path / "x.gguf").files[0]
    assert written.bytes <= 120_000 and formats(written.path) == pruned.plan.types


def test_a_type_is_pinned_by_name_and_several_are_refused(dense, tmp_path):
    told = ("prune", dense, tmp_path / "out", "--config", asked(tmp_path), "--target-size", "190KB")
    refused = flab(*told, "--gguf", "q8_0", "--gguf", "f16")
    assert refused.code == 2 and "is about one file, and q8_0, f16 are several" in refused.err
    assert flab(*told, "--gguf", "q8_0", "--cache-dir", tmp_path / "work").code == 0
    (path,) = (tmp_path / "out").glob("*.gguf")
    assert path.stat().st_size <= 190_000 and {*formats(path).values()} == {"Q8_0"}
    unknown = flab(*told, "--gguf", "auto")
    assert unknown.code == 2 and "auto" in unknown.err


def test_a_size_that_nothing_has_and_a_missing_library_are_refused_before_the_work(dense, tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match="5KB as the smallest formats is less than the .* MB of the smallest"):
        FlabOptimizer.from_pretrained(dense, config=small_config(tmp_path, target_size="5KB"))

    def missing():
        raise FlabError("which is not in this environment")

    monkeypatch.setattr(resolution, "check_library", missing)
    with pytest.raises(FlabError, match="which is not in this environment"):
        FlabOptimizer.from_pretrained(dense, config=small_config(tmp_path, target_size="190KB"))
