"""The whole way, on tiny models of real classes, through real files."""

import json
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from optimum_flab import (
    ConfigurationError,
    EvaluationSettings,
    FlabError,
    FlabOptimizer,
    FlabPrunerConfig,
    PruningPlan,
    RecoveryConfig,
)
from optimum_flab.checkpoints.hashes import weights_hash
from optimum_flab.checkpoints.stored_model import check_belongs_together
from optimum_flab.hub.frame import BEGIN
from optimum_flab.records.checkpoint import Checkpoint
from optimum_flab.records.report import TriedShape
from optimum_flab.records.summary import report_summary

from .conftest import LAYERS, PROSE, TEXTS, WIDTH, byte_level_tokenizer, thorough_but, tiny_model
from .families.zoo import member


DATA = {"sequence_length": 64, "validation_tokens": 200, "held_out_tokens": 200, "calibration_tokens": 1000}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer(600)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    file = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text * 2}) + "\n" for text in TEXTS))
    return str(file)


def optimizer_for(tokenizer, family="qwen2", as_loaded=True) -> FlabOptimizer:
    """A tiny model in memory, with the tokenizer that loading both from one folder gives."""
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = tiny_model(family, vocab_size=608, initializer_range=0.1, **ids)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    if as_loaded:
        with TemporaryDirectory() as folder:
            model.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
    return FlabOptimizer(model, tokenizer)


@pytest.fixture(scope="module")
def natural(tokenizer, corpus):
    """Of a pruning of the vocabulary alone, for tests that do not change it."""
    optimizer = optimizer_for(tokenizer)
    optimizer.prune(settings(corpus))
    return optimizer


def settings(corpus, **changes) -> FlabPrunerConfig:
    data = {**DATA, "corpus": [corpus], **changes.pop("data", {})}
    vocabulary = {"keep_merges": 20, **changes.pop("vocabulary", {})}
    ffn = {"multiple_of": 4, **changes.pop("ffn", {})}
    return FlabPrunerConfig(data=data, vocabulary=vocabulary, ffn=ffn, **changes)


@pytest.mark.parametrize(
    "family", thorough_but(2, ["gemma3_text", "qwen2", "llama", "llama-bias", "mistral", "qwen3"])
)
def test_one_number_gives_a_stock_checkpoint_within_half_a_point(family, tokenizer, corpus, tmp_path):
    optimizer = optimizer_for(tokenizer, family)
    pruned = optimizer.prune(settings(corpus, target_ratio=0.4))
    optimizer.save_pretrained(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    cut = AutoTokenizer.from_pretrained(tmp_path / "out")
    dense, kept = (sum(p.numel() for p in m.parameters()) for m in (optimizer.dense.model, loaded))
    assert 1 - kept / dense == pytest.approx(0.4, abs=0.005)
    assert type(loaded) is type(optimizer.dense.model)
    assert max(cut.get_vocab().values()) < loaded.config.vocab_size
    assert loaded.config.eos_token_id == cut.eos_token_id == loaded.generation_config.eos_token_id
    assert cut.chat_template == tokenizer.chat_template
    report = json.loads((tmp_path / "out" / "flab_report.json").read_text())
    assert report["pruned"]["parameters"] == kept
    assert report["removed_ratio"] == pytest.approx(1 - kept / dense)
    bodies = [
        sum(p.numel() for name, p in m.named_parameters() if "embed" not in name and "lm_head" not in name)
        for m in (optimizer.dense.model, loaded)
    ]
    assert report["removed_body_ratio"] == pytest.approx(1 - bodies[1] / bodies[0])
    assert f"; {1 - bodies[1] / bodies[0]:.1%} of all but the vocabulary" in optimizer.summary()
    assert report["held_out"]["divergence"] > 0
    shown = f": {1 - kept / dense:.1%} removed, parameters {kept:,}, vocab_size {len(cut):,}, num_hidden_layers "
    assert shown in repr(pruned) and len(repr(pruned)) < 200
    assert repr(pruned).endswith(f", divergence {report['held_out']['divergence']:.4f})")
    assert report["weights_sha256"] == weights_hash(loaded)
    assert f"{1 - kept / dense:.1%}" in optimizer.summary()
    texts = pruned.report.texts
    assert texts.calibration and texts.held_out and texts.validation
    notes = pruned.report.notes
    assert all(any(f"'{kind}' is left out" in note for note in notes) for kind in ("chat", "infilling"))
    assert all(f"note: {note}" in optimizer.summary() for note in notes)


@pytest.mark.parametrize("wider_is_cheaper", [True, False])
def test_the_shape_that_costs_least_is_taken(wider_is_cheaper, tokenizer, corpus, monkeypatch):
    def measure_shape(reading, shape, *rest):
        bits = shape["neuron"] / 100 * (-1 if wider_is_cheaper else 1) + 10
        return TriedShape(
            **shape.reported(),
            validation_divergence=0.0,
            validation_vocabulary_bits_per_byte=0.0,
            validation_bits_per_byte=bits,
            chosen=False,
        )

    monkeypatch.setattr("optimum_flab.pruning.search.measure_shape", measure_shape)
    pruned = optimizer_for(tokenizer).prune(settings(corpus, target_ratio=0.4))
    tried = pruned.report.search.candidates
    widths = [one.intermediate_size for one in tried]
    assert len(set(widths)) > 1
    assert [one.intermediate_size for one in tried if one.chosen] == [(max if wider_is_cheaper else min)(widths)]
    assert pruned.model.config.intermediate_size == (max if wider_is_cheaper else min)(widths)


def test_corpus_texts_are_cut_into_the_same_pieces(natural):
    pruned, dense = natural.pruned, natural.dense.tokenizer
    kept = pruned.plan.kept_tokens
    assert len(kept) < len(dense)
    same = 0
    for text in TEXTS:
        new = pruned.tokenizer(text * 2, add_special_tokens=False)["input_ids"]
        same += [kept[i] for i in new] == dense(text * 2, add_special_tokens=False)["input_ids"]
        assert pruned.tokenizer.decode(new) == text * 2
    assert same >= len(TEXTS) - pruned.report.texts.set_aside


def test_the_report_measures_what_a_plain_forward_pass_gives(tokenizer, corpus, tmp_path):
    """Divergence and bits per byte again, one text at a time, with nothing of ours but the plan."""
    held = tmp_path / "held.jsonl"
    held.write_text(
        "".join(
            json.dumps({"text": text}) + "\n"
            for i in range(4)
            for text in (f"def extra_{i}(q):\n    return q ** {i}\n", "q" * (9 + i))
        )
    )
    optimizer = optimizer_for(tokenizer, "llama")
    pruned = optimizer.prune(
        settings(
            corpus,
            target_ratio=0.3,
            data={"held_out": [str(held)], "held_out_tokens": 10_000},
            vocab_size=300,
            vocabulary={"keep_merges": 0},
        )
    )
    kept = torch.tensor(pruned.plan.kept_tokens)
    total, positions, bits, dense_bits, size, lost = 0.0, 0, 0.0, 0.0, 0, 0.0
    for line in held.read_text().splitlines():
        text = json.loads(line)["text"]
        ids = torch.tensor([pruned.tokenizer(text)["input_ids"]])
        dense_own = torch.tensor([optimizer.dense.tokenizer(text)["input_ids"]])
        dense = optimizer.dense.model(kept[ids]).logits[0, :-1]
        new = torch.log_softmax(pruned.model(ids).logits[0, :-1, : len(kept)], -1)
        old = torch.log_softmax(dense[:, kept], -1)
        total += float((old.exp() * (old - new)).sum())
        lost += float((1 - torch.softmax(dense, -1)[:, kept].sum(-1)).sum())
        positions += len(old)
        full = torch.log_softmax(pruned.model(ids).logits[0, :-1], -1)
        bits -= float(full.gather(1, ids[0, 1:, None]).sum())
        own = torch.log_softmax(optimizer.dense.model(dense_own).logits[0, :-1], -1)
        dense_bits -= float(own.gather(1, dense_own[0, 1:, None]).sum())
        size += len(text.encode())
    found = pruned.report.held_out
    assert 0 < found.texts_cut_differently < found.texts  # those that are cut alike are read once
    assert found.positions == positions and found.bytes == size
    assert found.divergence == pytest.approx(total / positions, rel=1e-3)
    assert found.lost_mass == pytest.approx(lost / positions, rel=1e-3)
    assert found.pruned_bits_per_byte == pytest.approx(bits / size / 0.6931472, rel=1e-3)
    assert found.dense_bits_per_byte == pytest.approx(dense_bits / size / 0.6931472, rel=1e-3)


def test_two_runs_and_an_applied_plan_give_the_same_bytes(tokenizer, corpus, tmp_path):
    config = settings(corpus, target_ratio=0.4)
    for name in ("first", "second"):
        optimizer = optimizer_for(tokenizer)
        optimizer.prune(config, resume=False)
        optimizer.save_pretrained(tmp_path / name)
    applied = optimizer_for(tokenizer)
    applied.apply(PruningPlan.load(tmp_path / "first" / "flab_plan.json"))
    applied.save_pretrained(tmp_path / "applied")
    for name in ("second", "applied"):
        for file in ("model.safetensors", "config.json", "tokenizer.json", "flab_plan.json", "flab_plan.safetensors"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "first" / file).read_bytes(), (name, file)


def test_a_plan_of_other_weights_is_refused(natural, tokenizer):
    other = optimizer_for(tokenizer)
    other.dense.model.model.norm.weight[0] += 1
    with pytest.raises(FlabError, match="made for"):
        other.apply(natural.pruned.plan)


def test_pinned_sizes_are_what_comes_out(tokenizer, corpus):
    pruned = optimizer_for(tokenizer).prune(
        settings(
            corpus,
            vocab_size=560,
            num_hidden_layers=3,
            intermediate_size=40,
        )
    )
    assert (pruned.model.config.vocab_size, len(pruned.tokenizer)) == (560, 560)
    assert (pruned.model.config.num_hidden_layers, pruned.model.config.intermediate_size) == (3, 40)


def test_without_a_target_only_the_vocabulary_goes_to_its_natural_size(natural):
    pruned = natural.pruned
    assert pruned.model.config.vocab_size == pruned.report.search.natural_vocab_size < 600
    assert (pruned.model.config.num_hidden_layers, pruned.model.config.intermediate_size) == (LAYERS, WIDTH)
    assert not pruned.plan.weights


def test_where_only_tokens_go_a_part_of_the_held_out_text_is_enough(tokenizer, corpus):
    """Predictions among those that stay are the dense model's: there is less to measure."""
    data = {"mix": {"problems": 1}, "held_out_tokens": 1500}
    narrower = {"intermediate_size": WIDTH - 4, "layers": {"enabled": False}}
    texts = [
        optimizer_for(tokenizer).prune(settings(corpus, data=data, **sizes)).report.held_out.texts
        for sizes in ({}, narrower)
    ]
    assert texts[0] == -(-texts[1] // 4) < texts[1]


def test_components_switched_off_are_left_alone(tokenizer, corpus):
    pruned = optimizer_for(tokenizer).prune(
        settings(
            corpus, target_ratio=0.2, vocabulary={"enabled": False}, layers={"enabled": False}, ffn={"multiple_of": 1}
        )
    )
    assert pruned.report.removed_ratio == pytest.approx(0.2, abs=0.005)
    assert pruned.model.config.vocab_size == 608
    assert pruned.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert pruned.model.config.num_hidden_layers == LAYERS
    assert pruned.model.config.intermediate_size < WIDTH


def test_the_target_may_be_kept_off_the_used_tokens(tokenizer, corpus):
    free, kept = (
        optimizer_for(tokenizer).prune(settings(corpus, target_ratio=0.6, vocabulary={"keep_used": keep_used}))
        for keep_used in (False, True)
    )
    # what is measured, not what is chosen: of a random model shapes are told apart by little
    smallest = [min(candidate.vocab_size for candidate in pruned.report.search.candidates) for pruned in (free, kept)]
    assert smallest[0] < kept.report.search.natural_vocab_size <= smallest[1]
    assert kept.model.config.vocab_size >= smallest[1]
    assert kept.report.removed_ratio == pytest.approx(0.6, abs=0.005)
    assert kept.report.texts.corpus_cut_differently == 0
    chosen = [candidate for candidate in free.report.search.candidates if candidate.chosen]
    assert [candidate.vocab_size for candidate in chosen] == [free.model.config.vocab_size]


def test_coverage_decides_the_natural_size(tokenizer, corpus):
    whole, most, least = (
        optimizer_for(tokenizer).prune(settings(corpus, vocabulary={"coverage": coverage, "keep_merges": 0}))
        for coverage in (1, 0.95, 0.5)
    )
    sizes = [pruned.report.search.natural_vocab_size for pruned in (whole, most, least)]
    assert sizes == [len(pruned.plan.kept_tokens) for pruned in (whole, most, least)]
    assert sizes[0] > sizes[1] > sizes[2]
    cut = [pruned.report.texts.corpus_cut_differently for pruned in (whole, most, least)]
    assert cut[0] == 0 < cut[1] <= cut[2]
    aimed = settings(corpus, target_ratio=0.6, vocabulary={"coverage": 0.95, "keep_used": True, "keep_merges": 0})
    assert optimizer_for(tokenizer).prune(aimed).model.config.vocab_size >= sizes[1]


def test_of_a_large_corpus_a_sample_is_compared(tokenizer, corpus, monkeypatch):
    monkeypatch.setattr("optimum_flab.pruning.texts.COMPARED", 400)
    few = settings(corpus, vocabulary={"coverage": 0.5, "keep_merges": 0})
    report = optimizer_for(tokenizer).prune(few).report
    texts = report.texts
    assert 0 < texts.corpus_cut_differently <= texts.corpus_compared < texts.corpus
    assert f" of {texts.corpus_compared} corpus texts are tokenised differently than before" in report_summary(report)
    assert f"(a sample of the {texts.corpus})" in report_summary(report)


def test_a_small_source_is_not_outweighed_when_tokens_are_dropped(tokenizer, tmp_path):
    prose, code = PROSE[:3], TEXTS * 10
    for name, texts in (("prose", prose), ("code", code), ("both", prose + code)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))

    def prose_tokens(*sources: str) -> int:
        names = [str(tmp_path / f"{source}.jsonl") for source in sources]
        config = settings(names[0], data={"corpus": names}, vocab_size=380, vocabulary={"keep_merges": 0})
        return sum(map(len, optimizer_for(tokenizer).prune(config).tokenizer(prose)["input_ids"]))

    assert prose_tokens("code", "prose") < 0.8 * prose_tokens("both")


@pytest.mark.parametrize("changes", thorough_but(1, [{"target_ratio": 0.5}, {}]))
def test_padding_of_the_vocabulary(natural, tokenizer, corpus, changes):
    fewest = natural.pruned.model.config.vocab_size
    vocabulary = {"pad_to_multiple_of": 7, "keep_used": True}
    pruned = optimizer_for(tokenizer).prune(settings(corpus, vocabulary=vocabulary, **changes))
    rows, tokens = pruned.model.config.vocab_size, len(pruned.tokenizer)
    assert rows % 7 == 0 and fewest <= tokens <= rows < tokens + 7
    if not changes:
        assert rows == -(-fewest // 7) * 7


@pytest.mark.parametrize("changes", [{"target_ratio": 0.29}, {"intermediate_size": 128}])
def test_sizes_that_two_devices_share(tokenizer, corpus, changes, tmp_path):
    optimizer = FlabOptimizer(tiny_model("llama", vocab_size=640, intermediate_size=256), tokenizer)
    asked = settings(corpus, align=2, **changes)
    pruned = optimizer.prune(asked)
    config = pruned.model.config
    assert config.vocab_size % 128 == 0 and config.intermediate_size % 128 == 0
    assert (config.vocab_size, config.intermediate_size) != (640, 256)
    assert pruned.config == asked
    optimizer.save_pretrained(tmp_path / "out")
    again = optimizer.apply(PruningPlan.load(tmp_path / "out"))
    assert weights_hash(again.model) == weights_hash(pruned.model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 9999}, "9,999 is more than the 64"),
        ({"num_hidden_layers": 5}, "5 is more than the 4"),
        ({"vocab_size": 100_000}, "100,000 is more than the 608"),
        ({"target_ratio": 0.9, "vocabulary": {"enabled": False}, "layers": {"enabled": False}}, "at least 0.000 and"),
        ({"vocabulary": {"keep_tokens": ["nowhere-token"]}}, "nowhere-token"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(tokenizer, corpus, changes, message):
    with pytest.raises(FlabError, match=message):
        optimizer_for(tokenizer).prune(settings(corpus, **changes))


def test_a_target_that_the_steps_pass_over_is_refused_with_the_nearest(tokenizer, corpus):
    coarse = settings(
        corpus, target_ratio=0.2, vocabulary={"enabled": False}, layers={"enabled": False}, ffn={"multiple_of": 16}
    )
    with pytest.raises(ConfigurationError, match="nearest is 0\\.2[0-9]+: use that, .*`ffn.multiple_of`"):
        optimizer_for(tokenizer).prune(coarse)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ffn": {"enabled": False}, "num_hidden_layers": 2},
        {"ffn": {"enabled": False}, "num_hidden_layers": 2, "layers": {"criterion": "block-influence"}},
        {"intermediate_size": 32, "ffn": {"criterion": "first"}},
    ],
)
def test_nan_predictions_are_refused_whatever_is_pruned(tokenizer, corpus, changes):
    optimizer = optimizer_for(tokenizer)
    optimizer.dense.model.model.layers[1].mlp.up_proj.weight[:] = 3e38
    with pytest.raises(FlabError, match="NaN or infinite (predictions|activations)"):
        optimizer.prune(settings(corpus, **changes))


def test_depth_alone_is_not_what_decides_whether_widths_are_compared(tokenizer, corpus):
    pruned = optimizer_for(tokenizer).prune(settings(corpus, target_ratio=0.5, layers={"enabled": False}))
    candidates = pruned.report.search.candidates
    assert len(candidates) > 1 and {candidate.num_hidden_layers for candidate in candidates} == {LAYERS}


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("computation", [torch.float32, torch.bfloat16])
@pytest.mark.thorough
def test_what_is_saved_does_not_depend_on_what_is_computed_in(tokenizer, corpus, tmp_path, storage, computation):
    """The result in memory, on disk, and of the plan applied again are the same weights and give the same logits."""
    dense = optimizer_for(tokenizer)
    dense.dense.model.to(storage).save_pretrained(tmp_path / "dense")
    dense.dense.tokenizer.save_pretrained(tmp_path / "dense")
    optimizer = FlabOptimizer.from_pretrained(tmp_path / "dense", dtype=computation, device="cpu")
    pruned = optimizer.prune(settings(corpus, intermediate_size=48))
    optimizer.save_pretrained(tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.dtype == (storage if computation == torch.float32 else torch.bfloat16)
    for name, weight in pruned.plan.weights.items():
        assert torch.equal(loaded.state_dict()[name], weight)
    ids = torch.arange(40)[None]
    assert torch.equal(loaded(ids).logits, pruned.model(ids).logits)
    applied = FlabOptimizer.from_pretrained(tmp_path / "dense", dtype=computation, device="cpu").apply(pruned.plan)
    assert weights_hash(applied.model) == weights_hash(loaded)


def test_padding_and_truncation_of_the_tokenizer_survive(tokenizer, corpus, tmp_path):
    optimizer = optimizer_for(tokenizer)
    optimizer.dense.tokenizer.backend_tokenizer.enable_padding(pad_id=1, pad_token="<|pad|>")
    pruned = optimizer.prune(settings(corpus))
    for side in (optimizer.dense.tokenizer, pruned.tokenizer):
        assert side.backend_tokenizer.padding["pad_token"] == "<|pad|>"


def test_completion_is_greedy_whatever_the_model_says(natural, monkeypatch):
    texts = natural.complete("def add_alpha(a, b):", max_new_tokens=12)
    assert set(texts) == {"dense", "pruned"}
    assert all(text.startswith("def add_alpha(a, b):") for text in texts.values())
    for model in (natural.dense.model, natural.pruned.model):
        monkeypatch.setattr(model.generation_config, "repetition_penalty", 5.0)
    assert natural.complete("def add_alpha(a, b):", max_new_tokens=12) == texts
    assert natural.dense.model.generation_config.repetition_penalty == 5.0
    for model in (natural.dense.model, natural.pruned.model):
        monkeypatch.setattr(model, "generation_config", None)
    assert natural.complete("def add_alpha(a, b):", max_new_tokens=12) == texts


def test_overwriting_through_a_link_replaces_what_it_points_to(natural, tmp_path):
    natural.save_pretrained(tmp_path / "real")
    (tmp_path / "real" / "model-00001-of-00002.safetensors").write_text("of an earlier run")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    natural.save_pretrained(tmp_path / "link", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]
    assert (tmp_path / "real" / "config.json").is_file()
    assert not list((tmp_path / "real").glob("model-*"))


@pytest.mark.parametrize(
    "sizes",
    [{"target_ratio": 0.3}, {"vocab_size": 300, "num_hidden_layers": 3}, {"vocabulary": {"enabled": False}}, {}],
)
def test_a_disk_too_small_is_said_before_the_work(tokenizer, corpus, tmp_path, monkeypatch, sizes):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(FlabError, match="free some space"):
        optimizer_for(tokenizer).check_space(tmp_path / "out", settings(corpus, **sizes))


@pytest.mark.parametrize("sizes", [{}, {"num_hidden_layers": LAYERS, "intermediate_size": 64}], ids=["off", "pinned"])
def test_everything_switched_off_says_that_nothing_would_be_pruned(tokenizer, corpus, tmp_path, sizes):
    optimizer = optimizer_for(tokenizer)
    optimizer.dense.model.save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "model.safetensors").write_text("never read")
    asked = settings(corpus, vocabulary={"enabled": False}, **sizes)
    with pytest.raises(ConfigurationError, match="nothing would be pruned: the vocabulary is switched off, and all 4"):
        optimizer.prune(asked)
    with pytest.raises(ConfigurationError, match="nothing would be pruned"):
        FlabOptimizer.from_pretrained(tmp_path / "dense", config=asked)


@pytest.mark.parametrize("number", [torch.nan, -torch.inf])
def test_nan_weights_are_named_before_texts_are_read(tokenizer, number):
    optimizer = optimizer_for(tokenizer)
    optimizer.dense.model.model.layers[1].mlp.up_proj.weight[0, 0] = number
    with pytest.raises(FlabError, match=r"'model.layers.1.mlp.up_proj.weight' .* holds NaN or infinite numbers"):
        optimizer.prune(settings("no-such-file.jsonl"))


def test_an_output_that_is_there_is_kept_unless_overwriting_is_asked_for(natural, tmp_path):
    out = tmp_path / "out"
    natural.save_pretrained(out)
    with pytest.raises(FlabError, match="not empty"):
        natural.save_pretrained(out)
    natural.save_pretrained(out, overwrite=True)
    for name in ("mine.txt", ".git", "results"):
        (out / name).mkdir()
        with pytest.raises(FlabError, match=f"holds {name}, which is no part of a pruned model"):
            natural.save_pretrained(out, overwrite=True)
        (out / name).rmdir()
    (out / "flab_plan.json").unlink()
    with pytest.raises(FlabError, match="which is no part of a pruned model"):
        natural.save_pretrained(out, overwrite=True)


def test_what_a_user_wrote_into_the_card_stays_when_the_model_is_replaced(tokenizer, corpus, tmp_path):
    optimizer, card = optimizer_for(tokenizer), tmp_path / "out" / "README.md"
    optimizer.prune(settings(corpus))
    optimizer.save_pretrained(tmp_path / "out")
    written = card.read_text()
    assert "It loads in `transformers` 4.57 as in 5." in written
    card.write_text(written.replace(f"{BEGIN}\n", f"{BEGIN}\nmy own words\n").replace("tags:\n", "tags:\n- mine\n"))
    optimizer.prune(settings(corpus, intermediate_size=32))
    optimizer.save_pretrained(tmp_path / "out", overwrite=True)
    assert "\nmy own words\n" in card.read_text() and "\n- mine\n" in card.read_text()
    card.write_text(card.read_text().replace("## What was removed", "## What I removed"))
    with pytest.raises(FlabError, match="holds README.md, which is no part of a pruned model"):
        optimizer.save_pretrained(tmp_path / "out", overwrite=True)


def test_a_tokenizer_that_grows_when_it_is_loaded_is_refused_at_once():
    tokenizer = byte_level_tokenizer(600, special="<|end|>")  # Qwen2Tokenizer adds the <|endoftext|> it misses
    with pytest.raises(FlabError, match=r"adds '<\|endoftext\|>'"):
        optimizer_for(tokenizer, as_loaded=False)


def test_licence_files_travel_along(tokenizer, corpus, tmp_path):
    optimizer_for(tokenizer).dense.model.save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "LICENSE").write_text("terms")
    (tmp_path / "dense" / "NOTICE.txt").write_text("notice")
    optimizer = FlabOptimizer.from_pretrained(tmp_path / "dense")
    optimizer.prune(settings(corpus))
    optimizer.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE").read_text() == "terms"
    assert (tmp_path / "out" / "NOTICE.txt").read_text() == "notice"


@pytest.mark.parametrize("enabled", thorough_but(1, [True, False]))
def test_ids_beyond_the_rows_are_left_out_whatever_is_pruned(enabled, tokenizer, corpus, tmp_path):
    optimizer = optimizer_for(tokenizer)
    model = optimizer.dense.model
    model.config.eos_token_id, model.generation_config.eos_token_id = 608, [0, 905]
    model.save_pretrained(tmp_path / "dense")
    optimizer.dense.tokenizer.save_pretrained(tmp_path / "dense")
    optimizer = FlabOptimizer.from_pretrained(tmp_path / "dense")
    pruned = optimizer.prune(settings(corpus, vocabulary={"enabled": enabled}, intermediate_size=32))
    assert any("eos_token_id named token ids that the model has no rows for" in note for note in pruned.report.notes)
    optimizer.save_pretrained(tmp_path / "out")
    check_belongs_together(Checkpoint(tmp_path / "out"))
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert (found.config.eos_token_id, found.generation_config.eos_token_id) == (None, [0])


@pytest.mark.parametrize("model_type", thorough_but(1, ["gpt2", "gpt_bigcode", "codegen"]))
def test_texts_longer_than_a_table_of_positions_are_refused_before_any_work(model_type, tokenizer, corpus, tmp_path):
    model = member(model_type, vocab_size=608)  # of 128 positions
    model.save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    long = settings(corpus, data={"sequence_length": 129})
    with pytest.raises(ConfigurationError, match="data.sequence_length: 129 tokens are more than the 128 positions"):
        FlabOptimizer.from_pretrained(tmp_path / "dense", config=long)
    optimizer = FlabOptimizer.from_pretrained(tmp_path / "dense")
    with pytest.raises(ConfigurationError, match="data.sequence_length: 129"):
        optimizer.prune(long)
    optimizer.prune(settings(corpus, data={"sequence_length": 128}))
    assert optimizer.complete("a", max_new_tokens=127)
    with pytest.raises(ConfigurationError, match="prompt and completion: 129 tokens"):
        optimizer.complete("a", max_new_tokens=128)
    with pytest.raises(ConfigurationError, match="recovery.sequence_length: 512 tokens"):
        optimizer.recover(RecoveryConfig(text=[corpus]))
    evaluated = optimizer.evaluate(
        EvaluationSettings(tasks="perplexity,divergence", data=dict.fromkeys(("perplexity", "divergence"), corpus))
    )
    assert {row.task for row in evaluated.scores} == {"perplexity", "divergence"}


def test_a_pruning_is_saved_in_one_step(tokenizer, corpus, tmp_path, monkeypatch):
    optimizer = optimizer_for(tokenizer)
    assert (optimizer.model, optimizer.tokenizer) == (optimizer.dense.model, optimizer.dense.tokenizer)
    pruned = optimizer.prune(settings(corpus, num_hidden_layers=3), save_directory=tmp_path / "out")
    assert (optimizer.model, optimizer.tokenizer) == (pruned.model, pruned.tokenizer)
    saved = FlabOptimizer.from_pretrained(tmp_path / "out").model
    assert pruned.folder == tmp_path / "out" and saved.config.num_hidden_layers == 3
    for name, tensor in pruned.model.state_dict().items():
        assert torch.equal(saved.state_dict()[name], tensor)
    monkeypatch.setattr("optimum_flab.optimizer.prune", lambda *_: pytest.fail("it began to prune"))
    with pytest.raises(FlabError, match="not empty"):
        optimizer.prune(settings(corpus), save_directory=tmp_path / "out")


@pytest.mark.parametrize("name", ["torch_dtype", "device_map", "subfolder", "quantization_config", "revison"])
def test_arguments_of_other_classes_are_refused_by_name(name, tmp_path):
    with pytest.raises(ConfigurationError, match=f"^{name}: .*({'no such' if name == 'revison' else '`'}|prune the)"):
        FlabOptimizer.from_pretrained(tmp_path, **{name: "auto"})


def test_an_attention_that_cannot_be_used_is_refused(tokenizer, tmp_path):
    optimizer_for(tokenizer).model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match="attn_implementation: 'no-such' cannot be used for"):
        FlabOptimizer.from_pretrained(tmp_path, attn_implementation="no-such")
    model = FlabOptimizer.from_pretrained(tmp_path, attn_implementation="eager", in_memory=False).model
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_act": "no-such-act"}), encoding="utf-8")
    with pytest.raises(FlabError, match="no model can be built from the configuration of .*no-such-act"):
        FlabOptimizer.from_pretrained(tmp_path, attn_implementation="eager")
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert model.device.type == "meta" and model.config._attn_implementation == "eager"
