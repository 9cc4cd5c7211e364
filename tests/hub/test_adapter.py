"""A LoRA adapter is pushed alone, and is then loaded on the pruned model by stock peft."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hub.card_rules import card_errors
from hub.client import push
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from optimum_flab.errors import ConfigurationError, FlabError
from optimum_flab.hub.adapter import stage_adapter
from optimum_flab.hub.ownership import BEGIN, is_generated, metadata_of


NAME, PRUNED = "me/tiny-lora", "me/tiny-flab"
MEASURED = {"divergence": 0.2, "pruned_bits_per_byte": 0.5, "positions": 300}


@pytest.mark.thorough
def test_an_adapter_arrives_alone_and_fits_the_pruned_model(recovered, hub, client, tmp_path):
    found = client(push, str(recovered), NAME, adapter_of=PRUNED).result()
    assert set(hub.files(NAME)) - {".gitattributes"} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert found.changes.delete == ()
    there = tmp_path / "there"
    there.mkdir()
    for name, content in hub.files(NAME).items():
        (there / name).write_bytes(content)
    assert json.loads((there / "adapter_config.json").read_text())["base_model_name_or_path"] == PRUNED
    base = AutoModelForCausalLM.from_pretrained(recovered, dtype=torch.float32)
    ids = torch.arange(12)[None]
    before = base(ids).logits
    after = PeftModel.from_pretrained(base, there)(ids).logits
    assert not torch.equal(before, after)
    sent, kept = (load_file(folder / "adapter_model.safetensors") for folder in (there, recovered / "adapter"))
    assert sent.keys() == kept.keys() and all(torch.equal(sent[name], kept[name]) for name in sent)


def test_its_card_names_the_pruned_model_and_what_was_measured(recovered):
    staged = stage_adapter(recovered, NAME, PRUNED)
    data = metadata_of(staged.card)
    assert is_generated(staged.card)
    assert data["base_model"] == PRUNED and data["library_name"] == "peft" and data["license"] == "apache-2.0"
    assert "| divergence from the dense model (nats per token) | 0.2000 | 0.1000 |" in staged.card
    assert f'from_pretrained("{PRUNED}")' in staged.card and f'"{NAME}"' in staged.card
    assert str(recovered) not in staged.card + json.dumps(staged.files["adapter_config.json"].decode())
    assert card_errors(staged.card) == []


def test_a_model_is_not_replaced_by_an_adapter(recovered, hub, client):
    plain = shutil.copytree(recovered, recovered.with_name("plain"))
    shutil.rmtree(plain / "adapter")
    client(push, str(plain), PRUNED).result()
    before = hub.state(PRUNED)
    error = client(push, str(recovered), PRUNED, adapter_of=PRUNED).error
    assert isinstance(error, ConfigurationError) and "its own repository" in str(error)
    assert hub.state(PRUNED) == before


def test_an_adapter_is_not_hidden_by_a_model(recovered, hub, client):
    client(push, str(recovered), NAME, adapter_of=PRUNED).result()
    shutil.rmtree(recovered / "adapter")
    before = hub.state(NAME)
    error = client(push, str(recovered), NAME).error
    assert isinstance(error, ConfigurationError) and "in place of the model" in str(error)
    assert hub.state(NAME) == before


def test_the_same_adapter_is_pushed_once(recovered, hub, client):
    client(push, str(recovered), NAME, adapter_of=PRUNED).result()
    path = recovered / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"].reverse()  # peft writes a set
    path.write_text(json.dumps(config), encoding="utf-8")
    assert client(push, str(recovered), NAME, adapter_of=PRUNED).result().changes.send == ()


def test_the_users_text_in_the_card_stays(recovered):
    first = stage_adapter(recovered, NAME, PRUNED).card.replace(BEGIN, f"{BEGIN}\nMine.")
    assert "\nMine.\n" in stage_adapter(recovered, NAME, PRUNED, remote_card=first).card


def test_a_licence_that_is_not_known_is_asked_for(recovered):
    path = recovered / "flab_report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    report["base_model"].pop("card")
    path.write_text(json.dumps(report), encoding="utf-8")
    (recovered / "README.md").unlink()
    with pytest.raises(ConfigurationError, match="`license`"):
        stage_adapter(recovered, NAME, PRUNED)


def test_a_training_that_kept_no_adapter_is_told_apart(recovered):
    shutil.rmtree(recovered / "adapter")
    path = recovered / "flab_report.json"
    report = json.loads(path.read_text(encoding="utf-8"))
    report["recovery"]["settings"]["keep_adapter"] = True
    report["recovery"]["training"]["best_step"] = 0
    path.write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="no checkpoint of that training"):
        stage_adapter(recovered, NAME, PRUNED)


def test_what_holds_no_adapter_is_refused(recovered, pruned):
    with pytest.raises(ConfigurationError, match="its own repository"):
        stage_adapter(recovered, PRUNED, PRUNED)
    with pytest.raises(ConfigurationError, match="adapter_of: "):
        stage_adapter(recovered, NAME, "not a repository")
    weights = recovered / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(FlabError, match="cannot be read"):
        stage_adapter(recovered, NAME, PRUNED)
    weights.unlink()
    with pytest.raises(ConfigurationError, match="`recovery.keep_adapter`"):
        stage_adapter(recovered, NAME, PRUNED)
