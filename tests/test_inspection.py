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


@pytest.mark.parametrize("kind", [None, "q8_0"])
def test_the_files_of_a_size_are_counted(tmp_path, kind):
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 3}
    tiny_model("llama", vocab_size=600, **sizes).save_pretrained(tmp_path)
    byte_level_tokenizer().save_pretrained(tmp_path)
    changes = {"target_size": "2.5MB", "target_type": kind, "ffn": {"multiple_of": 128}}
    inspection = inspect_model(str(tmp_path), **small_config(tmp_path, **changes).to_dict())
    outlook = inspection.to_dict()["outlook"]
    assert outlook["files"][kind or "smallest mixture"][1] <= 2_500_000 < outlook["files"]["f16"][0]
    assert (outlook["removed_body_ratio"] > 0) == (kind is not None)
    assert ("Likely shape as q8_0: " in inspection.to_text()) == (kind is not None)
