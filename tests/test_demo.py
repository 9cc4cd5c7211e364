"""Putting a model together from installed packages."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from optimum_flab.checkpoints.demo import DEMO_PACKAGES, DEMO_SHA256, assemble, demo_model
from optimum_flab.utils.errors import FlabError
from optimum_flab.utils.hashing import file_sha256
from optimum_flab.utils.places import cache_root


CONTENT = [b"GGUF" + bytes(range(256)) * 10, b"second", b"third"]
SHA256 = hashlib.sha256(b"".join(CONTENT)).hexdigest()
PACKAGES = [f"flab-test-model-part{part}" for part in range(1, 4)]


def install(site, package, content):
    """Lays down what an installed distribution with one data file consists of."""
    module = package.replace("-", "_")
    (site / module / "data").mkdir(parents=True)
    (site / module / "__init__.py").write_text("")
    (site / module / "data" / f"model.gguf.part{package[-1]}").write_bytes(content)
    info = site / f"{module}-1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0.0\n")
    (info / "RECORD").write_text(
        f"{module}/__init__.py,,\n{module}/data/model.gguf.part{package[-1]},,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n"
    )


@pytest.fixture
def packages(tmp_path, monkeypatch):
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    for package, content in zip(PACKAGES, CONTENT, strict=True):
        install(site, package, content)
    return site


def test_parts_are_joined_in_order(packages, tmp_path):
    target = tmp_path / "cache" / "deep" / "model.gguf"
    assemble(PACKAGES, SHA256, target)
    assert target.read_bytes() == b"".join(CONTENT)
    assert file_sha256(target) == SHA256
    assert list(target.parent.iterdir()) == [target]


def test_damaged_part_is_refused_and_leaves_nothing(packages, tmp_path):
    part = packages / "flab_test_model_part2" / "data" / "model.gguf.part2"
    part.write_bytes(b"sEcond")
    target = tmp_path / "cache" / "model.gguf"
    with pytest.raises(FlabError, match=f"checksum .*, expected {SHA256}.*force-reinstall"):
        assemble(PACKAGES, SHA256, target)
    assert list(target.parent.iterdir()) == []


def test_missing_package_names_the_remedy_and_writes_nothing(packages, tmp_path):
    target = tmp_path / "cache" / "model.gguf"
    with pytest.raises(FlabError, match=r"flab-test-model-part4, which is not installed; pip install gemma3"):
        assemble([*PACKAGES, "flab-test-model-part4"], SHA256, target)
    assert not target.parent.exists()


def test_unwritable_cache_is_named(packages, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(FlabError, match="model.gguf cannot be written"):
        assemble(PACKAGES, SHA256, tmp_path / "cache" / "model.gguf")


def test_cache_root_follows_the_environment(tmp_path):
    def found(**environment):
        kept = {name: value for name, value in os.environ.items() if name not in ("HF_HOME", "XDG_CACHE_HOME")}
        asked = "from optimum_flab.utils.places import cache_root; print(cache_root('demo'))"
        return subprocess.check_output([sys.executable, "-c", asked], env=kept | environment, text=True).strip()

    assert found(XDG_CACHE_HOME=str(tmp_path)) == str(tmp_path / "huggingface" / "optimum_flab" / "demo")
    assert found(HF_HOME=str(tmp_path), XDG_CACHE_HOME="/elsewhere") == str(tmp_path / "optimum_flab" / "demo")


@pytest.mark.demo
def test_real_demo_model_is_assembled_once_and_repaired(monkeypatch, tmp_path):
    pytest.importorskip(DEMO_PACKAGES[0].replace("-", "_"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    path = demo_model()
    assert path.parent == cache_root("demo")
    assert file_sha256(path) == DEMO_SHA256
    written = path.stat().st_mtime_ns
    assert demo_model() == path and path.stat().st_mtime_ns == written
    path.write_bytes(b"GGUF cut short")
    assert file_sha256(demo_model()) == DEMO_SHA256


@pytest.mark.demo
@pytest.mark.thorough
def test_real_demo_model_completes_code():
    pytest.importorskip(DEMO_PACKAGES[0].replace("-", "_"))
    import torch

    from optimum_flab.checkpoints.loading import load_dense

    dense = load_dense("flab-demo")
    assert dense.model.config.model_type == "gemma3_text"
    assert sum(parameter.numel() for parameter in dense.model.parameters()) == 268_098_176
    assert dense.storage_dtype == torch.bfloat16
    assert any("https://ai.google.dev/gemma/terms" in note for note in dense.notes)
    prompt = dense.tokenizer("for i in range(10):\n    print(", return_tensors="pt")
    output = dense.model.generate(**prompt, max_new_tokens=2, do_sample=False)
    assert dense.tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]).startswith("i")
