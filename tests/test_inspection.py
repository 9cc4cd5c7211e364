import pytest

from optimum_flab.inspection import inspect_model
from optimum_flab.utils.errors import ConfigurationError, FlabError

from .conftest import byte_level_tokenizer, small_config, tiny_model


def test_inspect_counts_without_weights(tmp_path, family):
    model = tiny_model(family, vocab_size=600)
    model.save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    inspection = inspect_model(str(tmp_path), **small_config(tmp_path, target_ratio=0.3).to_dict())
    assert inspection.to_dict()["parameters"] == sum(p.numel() for p in model.parameters())
    vocabulary = sum(p.numel() for name, p in model.named_parameters() if "embed" in name or "lm_head" in name)
    body = inspection.to_dict()["parameters"] - vocabulary
    assert inspection.to_dict()["body_parameters"] == body
    assert set(inspection.to_dict()["outlook"]["expected"]) == {"seconds", "memory_bytes"}
    assert "Likely shape" in inspection.to_text() and f" {body:,} " in inspection.to_text()


def test_inspect_refuses_a_ratio_out_of_range_and_a_missing_model(tmp_path):
    with pytest.raises(ConfigurationError, match="target_ratio: 1.5 should be less than 1"):
        inspect_model("x", target_ratio=1.5)
    with pytest.raises(FlabError, match="nowhere"):
        inspect_model(str(tmp_path / "nowhere"))
