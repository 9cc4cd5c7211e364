"""A token that is named in place of that of `hf auth login`."""

from __future__ import annotations

import pytest
import torch
from hub.faults import RIGHT

from optimum_flab import FlabError, FlabOptimizer
from optimum_flab.hub.client import hub_token


LICENSED = {"base_model": "someone/tiny"}


def test_a_model_is_pushed_and_loaded_with_a_token_that_is_not_kept(pruned, hub, monkeypatch, tmp_path, capfd):
    monkeypatch.delenv("HF_TOKEN")
    optimizer = FlabOptimizer.from_pretrained(pruned)
    with pytest.raises(FlabError, match="there is no token"):
        optimizer.push_to_hub("me/private", **LICENSED)
    pushed = optimizer.push_to_hub("private", token=RIGHT, private=True, **LICENSED)  # whose it is says the token
    assert pushed.where.startswith("me/private (new)") and hub_token() is None
    with pytest.raises(FlabError, match="there is no token"):
        optimizer.push_to_hub("me/private", **LICENSED)

    with pytest.raises(FlabError, match="private: run"):
        FlabOptimizer.from_pretrained("me/private", cache_dir=tmp_path / "cache")
    loaded = FlabOptimizer.from_pretrained(
        "me/private", token=RIGHT, cache_dir=tmp_path / "cache", attn_implementation="eager"
    )
    assert loaded.dense.folder.is_relative_to(tmp_path / "cache")
    assert loaded.model.config._attn_implementation == "eager"
    for name, tensor in optimizer.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
    texts = [repr(loaded.dense), str(vars(loaded)), loaded.tokenizer.init_kwargs, pushed, *capfd.readouterr()]
    assert RIGHT not in str(texts)


@pytest.mark.parametrize("token", ["of-a-firm", "two\nlines"])
def test_a_token_of_another_shape_is_in_no_message(token, pruned, hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    optimizer, said = FlabOptimizer.from_pretrained(pruned), []
    with pytest.raises(FlabError, match="could not be looked at|characters that no token has") as caught:
        optimizer.push_to_hub("me/x", token=token, **LICENSED)
    said.append(str(caught.value))
    with pytest.raises(FlabError, match="me/x") as caught:
        FlabOptimizer.from_pretrained("me/x", token=token, cache_dir=tmp_path)
    said.append(str(caught.value))
    assert all(token not in text and repr(token)[1:-1] not in text for text in said)
