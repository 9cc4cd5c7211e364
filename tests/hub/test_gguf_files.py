"""GGUF files of the weights beside them are part of a model, and others are not."""

import hashlib

import torch
from conftest import byte_level_tokenizer, tiny_model
from hub.client import push
from hub.test_push import LICENSED, NAME, files_there
from safetensors.torch import load_file, save_file

from optimum_flab import ExportSettings
from optimum_flab.checkpoints.hashes import dense_hash
from optimum_flab.checkpoints.loading import dense_from_memory, load_dense
from optimum_flab.export import export_gguf
from optimum_flab.hub.card import write_card
from optimum_flab.hub.gguf_files import own_gguf_files


def exported(folder, name="model.gguf", into=None, **settings):
    return export_gguf(load_dense(folder, in_memory=False), (into or folder) / name, ExportSettings(**settings))


def test_the_card_lists_what_was_written_from_these_weights(pruned, report):
    exported(pruned, "a.gguf")
    exported(pruned, "b.gguf", type="q8_0")
    (pruned / "c.gguf").write_text("GGUF")
    written = write_card(pruned)
    card = written.path.read_text()
    for name, kind in (("a.gguf", "f16"), ("b.gguf", "q8_0")):
        digest = hashlib.sha256((pruned / name).read_bytes()).hexdigest()
        assert f"| [{name}]({name}) | {kind} | 0 MB | `{digest}` |" in card
    assert "c.gguf" not in card and any("c.gguf" in note for note in written.notes)


def test_a_file_of_other_weights_is_not_listed(pruned, report):
    exported(pruned)
    assert own_gguf_files(pruned, report["weights_sha256"]) and not own_gguf_files(pruned, None)
    tensors = load_file(pruned / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, pruned / "model.safetensors", {"format": "pt"})
    exported(pruned, overwrite=True)
    assert not own_gguf_files(pruned, report["weights_sha256"])


def test_whatever_it_is_computed_in_the_weights_are_the_same(pruned, report, tmp_path):
    for number, options in enumerate([{"dtype": torch.float32}, {"dtype": torch.bfloat16}, {"in_memory": False}]):
        model = load_dense(pruned, **options)
        if model.storage_dtype == torch.float32 and options.get("dtype") == torch.bfloat16:
            continue  # rounded: those are other weights
        export_gguf(model, tmp_path / f"{number}.gguf")
    assert own_gguf_files(tmp_path, report["weights_sha256"])
    assert len(own_gguf_files(tmp_path, report["weights_sha256"])) == len(list(tmp_path.glob("*.gguf")))


def test_parts_belong_together_and_count_only_when_all_are_there(tmp_path):
    model = dense_from_memory(
        tiny_model("llama", 600, hidden_size=256, intermediate_size=1024), byte_level_tokenizer(600)
    )
    done = export_gguf(model, tmp_path / "model.gguf", ExportSettings(type="f32", split_megabytes=3))
    files = [file.path for file in done.files]
    assert len(files) > 2 and [file.path for file in own_gguf_files(tmp_path, dense_hash(model))] == files
    files[1].unlink()
    assert not own_gguf_files(tmp_path, dense_hash(model))


def test_a_push_sends_them(pruned, hub, client):
    own = {path.name for path in pruned.iterdir()}
    exported(pruned)
    (pruned / "other.gguf").write_text("GGUF")
    pushed = client(push, str(pruned), NAME, **LICENSED).result()
    assert files_there(hub) == own | {"model.gguf"} and "other.gguf" in pushed.left
