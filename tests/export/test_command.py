"""`optimum-cli flab export`, and what it refuses."""

import json
import resource
import shutil

import pytest
import torch

from optimum_flab import ConfigurationError, ExportSettings, FlabError, FlabOptimizer, FlabPrunerConfig
from optimum_flab.checkpoints.loading import dense_from_memory
from optimum_flab.export import export_gguf, gguf_file, quantiser
from optimum_flab.export.fields import model_fields
from optimum_flab.families import family_for
from optimum_flab.hub.frame import is_generated
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.names import is_replaceable
from optimum_flab.tensors.gguf_header import read_header

from ..conftest import TEXTS, byte_level_tokenizer, flab, tiny_model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    tiny_model("llama", 600).save_pretrained(folder / "model")
    byte_level_tokenizer(600).save_pretrained(folder / "model")
    return folder


@pytest.fixture
def project(made, tmp_path):
    return shutil.copytree(made, tmp_path / "project")


def test_the_command_says_what_it_wrote_and_overwrites_only_when_asked(project):
    export = ["export", "model", "out/tiny.gguf"]
    done = flab(*export, "--type", "Q8_0", "--no-measure", cwd=project)
    assert done.code == 0, done.err
    header = read_header(project / "out/tiny.gguf")
    assert header.architecture == "llama" and "out/tiny.gguf: 0." in done.out and "sha256" in done.out
    assert "divergence" not in done.out
    kinds = {tensor.kind.name for tensor in header.tensors.values()}
    assert kinds == {"F32", "Q8_0"}
    before = (project / "out/tiny.gguf").read_bytes()
    refused = flab(*export, cwd=project)
    assert refused.code == 2 and "already exists" in refused.err and "--overwrite" in refused.err
    assert (project / "out/tiny.gguf").read_bytes() == before
    assert flab(*export, "--overwrite", cwd=project).code == 0
    assert sorted(path.name for path in (project / "out").iterdir()) == ["tiny.Modelfile", "tiny.gguf"]
    assert (project / "out/tiny.gguf").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["model", "tiny.bin"], 2, "does not end in .gguf"),
        (["model", "tiny.gguf", "--type", "q4_k_m", "--split-megabytes", "3"], 2, "--split-megabytes"),
        (["nowhere", "tiny.gguf"], 1, "nowhere"),
        (["model", "tiny.gguf", "--type", "q9"], 2, "q4_k_m"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(project, arguments, code, message):
    done = flab("export", *arguments, cwd=project)
    assert done.code == code and message in done.err
    assert [path.name for path in project.iterdir()] == ["model"]


def test_families_that_llama_cpp_does_not_know_and_positions_that_it_cannot_have_are_refused(tmp_path):
    tokenizer = byte_level_tokenizer(600)
    model = dense_from_memory(tiny_model("llama", 600), tokenizer)
    unknown = model.family.model_copy(update={"gguf": None})
    model.family = unknown
    with pytest.raises(FlabError, match="'llama'.*docs/gguf.md"):
        export_gguf(model, tmp_path / "tiny.gguf")
    turning = tiny_model("llama", 600, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(FlabError, match="'dynamic'"):
        export_gguf(dense_from_memory(turning, tokenizer), tmp_path / "tiny.gguf")
    assert not list(tmp_path.iterdir())


def test_values_that_do_not_fit_the_type_are_refused(tmp_path):
    model = tiny_model("llama", 600)
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0, 0] = 1e6
    loaded = dense_from_memory(model, byte_level_tokenizer(600))
    with pytest.raises(FlabError, match=r"layers\.2\.mlp\.down_proj.*bf16"):
        export_gguf(loaded, tmp_path / "tiny.gguf")
    assert not list(tmp_path.iterdir())
    export_gguf(loaded, tmp_path / "tiny.gguf", ExportSettings(type="bf16"))
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(FlabError, match="NaN"):
        export_gguf(loaded, tmp_path / "other.gguf", ExportSettings(type="bf16"))


def test_the_front_door_exports_what_was_pruned(tmp_path):
    optimizer = FlabOptimizer(tiny_model("llama", 600), byte_level_tokenizer(600))
    optimizer.export_gguf(tmp_path / "dense.gguf")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    data = {"corpus": [str(corpus)], "mix": {"own": 1}, "calibration_tokens": 512, "sequence_length": 64}
    data |= {"validation_tokens": 64, "held_out_tokens": 64}
    optimizer.prune(FlabPrunerConfig(data=data, vocab_size=400, vocabulary={"keep_merges": 0}))
    optimizer.export_gguf(tmp_path / "pruned.gguf")
    rows = [read_header(tmp_path / f"{name}.gguf").fields["llama.vocab_size"] for name in ("dense", "pruned")]
    assert rows == [600, 400]


def test_a_name_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "tiny.gguf").mkdir()
    loaded = dense_from_memory(tiny_model("llama", 600), byte_level_tokenizer(600))
    with pytest.raises(ConfigurationError, match="is a folder"):
        export_gguf(loaded, tmp_path / "tiny.gguf", ExportSettings(overwrite=True))


def test_a_disk_that_fills_up_is_said_and_nothing_is_left(tmp_path):
    loaded = dense_from_memory(tiny_model("llama", 600), byte_level_tokenizer(600))
    (tmp_path / ".tiny.gguf.partial").mkdir()  # a killed run left it
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(FlabError, match="cannot be written .* the disk is full"):
            export_gguf(loaded, tmp_path / "tiny.gguf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 16}
SLIDING_SCALED = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
}


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("gemma3_text", {"query_pre_attn_scalar": 7}, "query_pre_attn_scalar of this model is 7"),
        ("llama", {"hidden_act": "relu"}, "hidden_act of this model is 'relu'"),
        (
            "qwen2",
            {"rope_parameters": {**YARN, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
            "'llama3' for qwen2",
        ),
        ("llama", {"rope_parameters": YARN}, "beta_fast 16"),
        ("qwen3", {"attention_bias": True}, "attention_bias of this model is True"),
        ("gemma3_text", {"attention_bias": True}, "attention_bias of this model is True"),
        ("gemma3_text", {"rope_parameters": SLIDING_SCALED}, "'linear' for layers with a sliding window"),
    ],
)
def test_a_model_that_llama_cpp_would_compute_otherwise_is_refused(family, changes, message):
    config = tiny_model(family, 600, **changes).config
    with pytest.raises(FlabError, match=message):
        model_fields(config, family_for(config))


def test_a_pruning_writes_the_files_that_are_asked_for(project, monkeypatch):
    rows = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (project / "corpus.jsonl").write_text(rows)
    prune = "prune -m model out --vocab-size 400 --keep-merges 0 --corpus corpus.jsonl --mix own=1 --cache-dir cache"
    prune += " --sequence-length 64 --calibration-tokens 512 --validation-tokens 64 --held-out-tokens 64 --overwrite"
    with monkeypatch.context() as patch:
        patch.setattr(quantiser, "find_quantiser", lambda: None)
        refused = flab(*prune.split(), "--gguf", "Q4_K_M", cwd=project)
    assert refused.code == 1 and "pip install llama-cpp-py-sync" in refused.err and not (project / "cache").exists()
    done = flab(*prune.split(), "--gguf", "Q8_0", "--gguf", "f16", "--prompt", "def f", cwd=project)
    assert done.code == 0, done.err
    for kind in ("q8_0", "f16"):
        name = f"model-pruned-{kind}.gguf"
        assert read_header(project / "out" / name).fields["llama.vocab_size"] == 400
        assert f"{name}: 0." in done.out and name in (project / "out/README.md").read_text()
        for file in (name, f"model-pruned-{kind}.Modelfile"):
            assert (project / "out" / file).is_file() and is_replaceable(project / "out" / file)
    report = Checkpoint(project / "out").report
    coarse, fine = report.files
    assert (coarse.type, fine.type, coarse.against) == ("q8_0", "f16", "dense")
    assert coarse.bytes == (project / "out" / coarse.name).stat().st_size
    # the same text and the same dense model as those of the checkpoint, whose weights f16 nearly holds
    assert fine.cost.positions == report.held_out.positions
    assert fine.cost.dense_bits_per_byte == pytest.approx(report.held_out.dense_bits_per_byte)
    assert fine.cost.pruned_bits_per_byte == pytest.approx(report.held_out.pruned_bits_per_byte, abs=2e-3)
    assert fine.cost.divergence < coarse.cost.divergence < 0.01
    stages = [report.stages[name] for name in ("GGUF files", "measuring GGUF files")]
    assert all(0 < stage.wall_seconds < report.total.wall_seconds for stage in stages)
    assert stages[1].flop and "measuring GGUF files" in (project / "out/flab_report.html").read_text()
    shown = f"{coarse.cost.divergence:.4g}"
    for text in (done.out, *((project / "out" / name).read_text() for name in ("README.md", "flab_report.html"))):
        assert shown in text
    compared = flab("compare", "out", cwd=project).out
    assert "| divergence, GGUF q8_0" in compared and shown in compared
    (completion,) = report.completions
    assert completion.prompt == "def f" and "completion by the pruned model" in done.out
    with monkeypatch.context() as patch:
        for module in (quantiser, gguf_file):
            patch.setattr(module, "check_quantiser", lambda kind: ["false"])
        failed = flab(*prune.split(), "--gguf", "f16", "--gguf", "q4_k_m", cwd=project)
    left = "model-pruned-q4_k_m-f32.gguf"
    assert failed.code == 1 and "could not quantise" in failed.err and f"The model is in out/{left}" in failed.err
    card = (project / "out/README.md").read_text()  # the pruning is not lost, and the card says what is there
    assert is_generated(card) and f"({left})" in card and "(model-pruned-f16.gguf)" in card
    assert "q4_k_m.gguf" not in card
    (project / ".model-pruned-q4_k_m.gguf.partial").mkdir()  # of an export that was killed
    for file in (".model-pruned-q4_k_m.gguf.partial", "model-pruned-q4_k_m-bf16.gguf"):
        assert is_replaceable(project / file)


def test_an_export_beside_its_pruned_model_is_measured_against_it_and_noted(project):
    rows = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (project / "corpus.jsonl").write_text(rows)
    prune = "prune -m model out --vocab-size 400 --keep-merges 0 --corpus corpus.jsonl --mix own=1 --cache-dir cache"
    prune += " --sequence-length 64 --calibration-tokens 512 --validation-tokens 64 --held-out-tokens 64"
    assert flab(*prune.split(), cwd=project).code == 0
    done = flab("export", "out", "out/own.gguf", "--type", "q8_0", cwd=project)
    assert done.code == 0, done.err
    assert "(from the checkpoint that it was made of), bits per byte " in done.out
    checkpoint = Checkpoint(project / "out")
    (file,) = checkpoint.report.files
    assert file.name == "own.gguf" and file.against == "source"
    assert 0 < file.cost.divergence < 0.01 and file.cost.positions > 1000
    assert "(from the checkpoint that it was made of)" in checkpoint.card
    assert checkpoint.current_report == checkpoint.report
    again = ("export", "out", "out/own.gguf", "--type", "f16", "--overwrite", "--no-measure")
    assert flab(*again, cwd=project).code == 0
    replaced = Checkpoint(project / "out")  # of which nothing is said that was measured on the earlier file
    assert not replaced.report.files and "own.gguf](own.gguf) | f16 | " in replaced.card
    assert "own.gguf" not in (project / "out/flab_report.html").read_text(encoding="utf-8")
    before = (project / "out/flab_report.json").read_bytes()
    assert flab("export", "out", "elsewhere.gguf", "--type", "q8_0", cwd=project).code == 0
    assert (project / "out/flab_report.json").read_bytes() == before


@pytest.mark.parametrize(("name", "less", "is_as_it_was"), [("twice", 50_000, False), ("model", 10_000, True)])
def test_a_file_with_fewer_rows_is_taken_if_it_meets_the_size(name, less, is_as_it_was, project):
    """That which holds the embedding twice is larger than a new one."""
    model = tiny_model("llama", 600, hidden_size=64)
    model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    model.save_pretrained(project / "twice")
    byte_level_tokenizer(600).save_pretrained(project / "twice")
    rows = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (project / "corpus.jsonl").write_text(rows)
    assert flab("export", name, "dense.gguf", "--type", "q8_0", "--no-measure", cwd=project).code == 0
    size = (project / "dense.gguf").stat().st_size - less
    prune = f"prune -m dense.gguf out --target-size {size}B --target-type q8_0 --gguf q8_0 --no-layers --no-ffn"
    prune += " --keep-merges 0 --corpus corpus.jsonl --mix own=1 --output-dtype float32 --cache-dir cache"
    prune += " --sequence-length 64 --calibration-tokens 512 --validation-tokens 64 --held-out-tokens 64"
    done = flab(*prune.split(), cwd=project)
    assert done.code == 0, done.err
    assert ("is the pruned file with fewer rows" in done.out) == is_as_it_was
    (file,) = Checkpoint(project / "out").report.files
    assert file.bytes <= size


def test_a_file_that_only_has_fewer_rows_is_measured_as_the_others_are(project):
    rows = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (project / "corpus.jsonl").write_text(rows)
    assert flab("export", "model", "dense.gguf", "--type", "q8_0", "--no-measure", cwd=project).code == 0
    prune = "prune -m dense.gguf out --vocab-size 400 --keep-merges 0 --corpus corpus.jsonl --mix own=1 --gguf q8_0"
    prune += " --sequence-length 64 --calibration-tokens 512 --validation-tokens 64 --held-out-tokens 64"
    done = flab(*prune.split(), "--output-dtype", "float32", "--cache-dir", "cache", cwd=project)
    assert done.code == 0 and "is the pruned file with fewer rows" in done.out, done.err
    (file,) = Checkpoint(project / "out").report.files
    assert abs(file.cost.divergence) < 1e-5 and file.type == "q8_0"
