"""What is checked before the first byte leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hub.conftest import DATA, evaluation_of, recovery_of
from safetensors.torch import load_file, save_file

from optimum_flab import FlabOptimizer, FlabPrunerConfig
from optimum_flab.checkpoints.hashes import weights_hash
from optimum_flab.errors import ConfigurationError, FlabError
from optimum_flab.hub.ownership import BEGIN, END, is_generated, metadata_of, text_of_user
from optimum_flab.hub.staging import blob_id, check_complete, check_limits, sha256_of, stage
from optimum_flab.hub.terms import Answers


NAME = "me/tiny-flab"


def change_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def with_own_text(content: str, text: str) -> str:
    return content.replace(BEGIN, f"{BEGIN}\n{text}")


def test_a_staged_model_is_its_files_with_a_card_for_the_repository(pruned):
    (pruned / ".cache").mkdir()
    (pruned / ".cache" / "secret").write_text("x", encoding="utf-8")
    (pruned / "notes").mkdir()
    (pruned / "notes" / "mine.md").write_text("x", encoding="utf-8")
    before = {path.name for path in pruned.iterdir() if path.is_file()}
    staged = stage(pruned, NAME)
    assert set(staged.files) == before and staged.left == (".cache/secret", "notes/mine.md")
    assert staged.files["model.safetensors"] == pruned / "model.safetensors"
    assert stage(pruned, NAME, include=["notes/*"]).files["notes/mine.md"] == pruned / "notes" / "mine.md"
    assert is_generated(staged.card) and f'from_pretrained("{NAME}")' in staged.card
    assert "# tiny-flab" in staged.card


def test_no_path_of_this_machine_leaves_it(pruned, report):
    (pruned / "flab_evaluation.json").write_text(json.dumps(evaluation_of(report)), encoding="utf-8")
    base = report["base_model"]["name"]
    assert base.startswith("/")
    staged = stage(pruned, NAME)
    for name, content in staged.files.items():
        content = content if isinstance(content, bytes) else content.read_bytes()
        assert str(Path(base).parent).encode() not in content and b"/data/somebody" not in content, name
    records = {name: json.loads(staged.files[name]) for name in ("flab_report.json", "flab_plan.json")}
    assert records["flab_report.json"]["base_model"]["name"] == "tiny-qwen2"
    own = json.loads((pruned / "flab_plan.json").read_text(encoding="utf-8"))
    assert records["flab_plan.json"]["kept_tokens"] == own["kept_tokens"]
    assert records["flab_plan.json"]["settings"]["data"]["corpus"] == ["corpus.jsonl"]
    assert len(staged.files["flab_plan.json"].splitlines()) == len(
        (pruned / "flab_plan.json").read_bytes().splitlines()
    )


def test_relative_paths_are_known_by_where_they_stand(pruned, report):
    private, secret = "private-client/tiny", ["private-client/secret corpus.jsonl[a]", "org/dataset", "python-stdlib"]
    sections = {"data": {"corpus": secret, "held_out": ["private-client/x"]}, "recovery": {"data": secret}}
    sections["vocabulary"] = {"keep_tokens": ["private-client/tiny"]}  # a token of that name stays
    evaluation = evaluation_of(report)
    evaluation["settings"] |= {"data": {"humaneval": secret}, "datasets": ["org/dataset"]}
    evaluation["models"]["dense"] |= {"name": private, "revision": None}
    (pruned / "flab_evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    change_json(pruned / "flab_report.json", base_model={**report["base_model"], "name": private})
    training = recovery_of(settings={"data": secret, "exclude": secret[:1]}, datasets=["org/dataset"])
    change_json(pruned / "flab_report.json", datasets=["org/dataset"], recovery=training)
    change_json(pruned / "flab_plan.json", base_model=private, settings=sections)
    (pruned / "flab_config.json").write_text(json.dumps({**sections, "vocabulary": {}}), encoding="utf-8")
    staged = stage(pruned, NAME)
    for name in ("README.md", "flab_config.json", "flab_report.json", "flab_evaluation.json"):
        content = staged.files[name]
        assert b"private-client" not in content and b"secret corpus.jsonl[a]" in content, name
        assert b"org/dataset" in content, name
    plan = json.loads(staged.files["flab_plan.json"])
    assert plan["base_model"] == "tiny" and plan["settings"]["vocabulary"] == sections["vocabulary"]
    assert plan["settings"]["data"] == {
        "corpus": ["secret corpus.jsonl[a]", "org/dataset", "python-stdlib"],
        "held_out": ["x"],
    }


def test_a_private_folder_that_looks_like_a_dataset_is_none_wherever_it_is_pushed_from(
    checkpoint, tmp_path, monkeypatch
):
    dense = json.loads((checkpoint("qwen2") / "flab_report.json").read_text(encoding="utf-8"))["base_model"]["name"]
    for name in ("secrets", "more"):
        (tmp_path / "corp" / name).mkdir(parents=True)
        for number in range(40):
            text = f"def {name}_{number}(x):\n    return x + {number}\n" * 4
            (tmp_path / "corp" / name / f"{number}.py").write_text(text, encoding="utf-8")
    data = {**DATA, "corpus": ["corp/secrets"], "calibration": ["corp/more"]}
    monkeypatch.chdir(tmp_path)
    optimizer = FlabOptimizer.from_pretrained(dense)
    optimizer.prune(FlabPrunerConfig(data=data, layers={"enabled": False}, ffn={"enabled": False}))
    optimizer.save_pretrained("out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    staged = stage(tmp_path / "out", NAME)
    for name, content in staged.files.items():
        assert b"corp/" not in (content if isinstance(content, bytes) else content.read_bytes()), name
    assert "datasets" not in metadata_of(staged.card) and "`secrets`" in staged.card


@pytest.mark.parametrize(
    "missing", ["config.json", "flab_plan.json", "flab_report.json", "model.safetensors", "tokenizer.json"]
)
def test_a_folder_that_lacks_a_part_is_refused(pruned, missing):
    check_complete(pruned)
    (pruned / missing).unlink()
    with pytest.raises(ConfigurationError, match=f"since it lacks {missing}"):
        check_complete(pruned)


def test_every_missing_part_and_shard_is_named(pruned):
    (pruned / "model.safetensors").rename(pruned / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}}
    (pruned / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    (pruned / "config.json").unlink()
    with pytest.raises(ConfigurationError, match="since it lacks config.json, model-2.safetensors"):
        check_complete(pruned)
    (pruned / "model.safetensors.index.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"is not a list of weight files"):
        check_complete(pruned)


def test_shards_are_checked_together(pruned):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pruned)
    (pruned / "model.safetensors").unlink()
    model.save_pretrained(pruned, max_shard_size="40KB")
    assert len(list(pruned.glob("model-*.safetensors"))) > 1
    stage(pruned, NAME)
    index = json.loads((pruned / "model.safetensors.index.json").read_text(encoding="utf-8"))
    index["weight_map"]["another"] = next(iter(index["weight_map"].values()))
    (pruned / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(FlabError, match="names tensors other than those in its files"):
        stage(pruned, NAME)


def test_weights_that_nothing_checks_are_refused(pruned):
    weights = load_file(pruned / "model.safetensors")
    (pruned / "model.safetensors").rename(pruned / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
    (pruned / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    check_complete(pruned)
    # from_pretrained would load this one
    zeros = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    save_file(zeros, pruned / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match="also holds model.safetensors, "):
        check_complete(pruned)
    index["weight_map"] = dict.fromkeys(weights, "model.safetensors")
    (pruned / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="also holds model-00001-of-00001.safetensors, model.safetensors"):
        check_complete(pruned)
    index["weight_map"] = dict.fromkeys(weights, "../model.safetensors")
    (pruned / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is not a name in the same folder"):
        check_complete(pruned)


@pytest.mark.parametrize(
    "name",
    [
        *("model-00001-of-00002.safetensors", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin"),
        *(
            "pytorch_model.bin.index.json",
            "optimizer.pt",
            "rng_state_0.pth",
            "training_args.bin",
            "trainer_state.json",
        ),
        "adapter_config.json",
    ],
)
def test_files_of_a_training_and_other_weights_are_refused(pruned, name):
    (pruned / name).write_bytes(b"junk")
    with pytest.raises(ConfigurationError, match=f"also holds {name}, .*move it away"):
        check_complete(pruned)
    (pruned / "mine").mkdir()
    (pruned / name).rename(pruned / "mine" / name)
    check_complete(pruned)


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    weights = change({name: tensor.clone() for name, tensor in weights.items()})
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: change_weights(folder, lambda w: {**w, NORM: w[NORM] + 1}), "were changed after"),
        (lambda folder: change_weights(folder, lambda w: {**w, NORM: w[NORM][:-1]}), "model.norm.weight has shape"),
        (lambda folder: change_weights(folder, lambda w: {k: v for k, v in w.items() if k != NORM}), "are missing"),
        (
            lambda folder: change_weights(folder, lambda w: {**w, "more": torch.ones(2)}),
            "the class does not have: more",
        ),
        (lambda folder: change_json(folder / "config.json", vocab_size=10_000), "has shape"),
        (lambda folder: change_json(folder / "config.json", eos_token_id=50_000), "token ids \\[50000\\]"),
        (lambda folder: change_json(folder / "flab_plan.json", vocab_size=5), "the plan 5"),
        (lambda folder: change_json(folder / "flab_plan.json", kept_layers=[0]), "num_hidden_layers 3, the plan 1"),
        (
            lambda folder: change_json(folder / "flab_plan.json", kept_neurons={"0": [1, 2]}),
            "intermediate_size 48, the plan 2",
        ),
        (lambda folder: change_json(folder / "flab_plan.json", base_hash="0"), "different base models"),
        (lambda folder: change_json(folder / "config.json", model_type="nothing"), "does not load"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "does not load"),
        (lambda folder: (folder / "flab_config.json").write_text("{"), "flab_config.json"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(pruned, change, message):
    change(pruned)
    with pytest.raises(FlabError, match=message):
        stage(pruned, NAME)


def test_a_damaged_weight_file_is_refused(pruned):
    content = (pruned / "model.safetensors").read_bytes()
    (pruned / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(FlabError, match="cannot be read"):
        stage(pruned, NAME)


def test_recovery_may_change_the_weights_if_it_rewrites_the_hash(pruned):
    change_weights(pruned, lambda w: {**w, NORM: w[NORM] + 1})
    change_json(pruned / "flab_report.json", weights_sha256=weights_hash(load_file(pruned / "model.safetensors")))
    assert "model.safetensors" in stage(pruned, NAME).files


def test_files_over_the_limits_are_refused(pruned, tmp_path):
    large = tmp_path / "large.safetensors"
    with large.open("wb") as file:
        file.truncate(51 * 10**9)  # a hole: takes no space
    sizes = {"large.safetensors": large.stat().st_size, "config.json": 100}
    with pytest.raises(FlabError, match=r"large\.safetensors \(51\.0 GB\): the Hub accepts files of at most 50 GB"):
        check_limits(sizes)
    with pytest.raises(FlabError, match="3 files are more than the 2"):
        check_limits({"a": 1, "b": 1, "c": 1}, most_files=2)
    with pytest.raises(FlabError, match="model.safetensors"):
        stage(pruned, NAME, largest_file=10_000)


# --- the card


def test_a_licence_that_is_not_known_is_asked_for(pruned, report):
    change_json(pruned / "flab_report.json", base_model={**report["base_model"], "name": "/x/tiny", "card": None})
    (pruned / "README.md").unlink()
    with pytest.raises(ConfigurationError, match="licence of the base model is not known.*`license`"):
        stage(pruned, NAME)
    gated = lambda repo_id, revision: (None, "it is gated; accept its terms")  # noqa: E731
    with pytest.raises(ConfigurationError, match="(?s)`license`.*it is gated"):
        stage(pruned, NAME, answers=Answers("someone/tiny"), fetch=gated)
    card = stage(pruned, NAME, answers=Answers("someone/tiny", "mit")).card
    assert "license: mit" in card and "base_model: someone/tiny" in card


def test_a_card_that_somebody_wrote_is_sent_as_it_is_if_it_states_a_licence(pruned):
    mine = "---\nlicense: apache-2.0\n---\n# mine\n"
    (pruned / "README.md").write_text(mine, encoding="utf-8")
    staged = stage(pruned, NAME)
    assert staged.card == mine and staged.files["README.md"] == mine.encode() and "sent unchanged" in staged.notes[0]
    with pytest.raises(ConfigurationError, match="would have no effect"):
        stage(pruned, NAME, answers=Answers(license="mit"))
    (pruned / "README.md").write_text("# mine\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="states no license"):
        stage(pruned, NAME)


def test_a_card_on_the_hub_that_somebody_wrote_is_not_overwritten_unless_asked(pruned):
    with pytest.raises(ConfigurationError, match="`overwrite_card`"):
        stage(pruned, NAME, remote_card="# somebody's card\n")
    stage(pruned, NAME, remote_card="# somebody's card\n", overwrite_card=True)
    generated = stage(pruned, NAME).card
    stage(pruned, NAME, remote_card=generated)
    with pytest.raises(ConfigurationError, match="changed outside its marked lines"):
        stage(pruned, NAME, remote_card=generated.replace("tiny-flab", "another"))
    (pruned / "README.md").write_text("---\nlicense: mit\n---\n# mine\n", encoding="utf-8")
    stage(pruned, NAME, remote_card="---\nlicense: mit\n---\n# mine\n")


def test_text_that_was_written_on_the_hub_survives(pruned):
    remote = with_own_text(stage(pruned, NAME).card, "written on the Hub")
    assert text_of_user(stage(pruned, NAME, remote_card=remote).card) == "written on the Hub"
    path = pruned / "README.md"
    path.write_text(with_own_text(path.read_text(encoding="utf-8"), "written here"), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="differs from README.md"):
        stage(pruned, NAME, remote_card=remote)
    assert text_of_user(stage(pruned, NAME, remote_card=remote, overwrite_card=True).card) == "written here"


def test_text_in_a_changed_card_survives_where_it_can_be_told(pruned):
    remote = with_own_text(stage(pruned, NAME).card, "written on the Hub").replace("# tiny", "# my tiny")
    assert text_of_user(stage(pruned, NAME, remote_card=remote, overwrite_card=True).card) == "written on the Hub"
    with pytest.raises(ConfigurationError, match="not the one that ends your text"):
        stage(pruned, NAME, remote_card=remote.replace(END, ""), overwrite_card=True)


def test_files_are_known_by_the_ids_that_git_and_the_hub_give_them(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    assert blob_id(path) == blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert sha256_of(path) == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
