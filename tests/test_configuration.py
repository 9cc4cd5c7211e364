from __future__ import annotations

import copy
import json
import pickle
from inspect import signature
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from optimum.configuration_utils import BaseConfig

from optimum_flab import ConfigurationError, EvaluationSettings, FlabPrunerConfig
from optimum_flab.settings.files import read_settings_file
from optimum_flab.settings.pruning import (
    COMPONENTS,
    SECTIONS,
    FFNSettings,
    LayerSettings,
    PrunerSettings,
    merge_settings,
)


def faults(**values) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        FlabPrunerConfig(**values)
    heading, *lines = str(caught.value).splitlines()
    assert heading == "faulty settings:"
    return [line.strip() for line in lines]


texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), max_size=3)
valid_fields = st.fixed_dictionaries(
    {},
    optional={
        "target_ratio": st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
        "seed": st.integers(0, 2**32 - 1),
        "align": st.none() | st.integers(1, 8),
        "data": st.fixed_dictionaries(
            {"corpus": texts, "preset": st.sampled_from([None, "python", "web", "systems", "all-code"])}
        ),
        "vocabulary": st.fixed_dictionaries(
            {"keep_tokens": texts, "coverage": st.floats(0, 1, exclude_min=True), "keep_used": st.booleans()}
        ),
        "layers": st.fixed_dictionaries({"enabled": st.booleans()}),
        "ffn": st.fixed_dictionaries({"criterion": st.sampled_from(["obs", "first"])}),
    },
)


@settings(max_examples=40, deadline=None)
@given(fields=valid_fields)
def test_every_valid_configuration_survives_every_way_of_writing_it(fields, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    config = FlabPrunerConfig(**fields)
    config.save_pretrained(folder)
    # unicode escaped: PyYAML itself does not read back every character that it writes plainly
    (folder / "flab.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")

    assert FlabPrunerConfig.from_pretrained(folder) == config
    assert FlabPrunerConfig.from_pretrained(folder / "flab_config.json") == config
    assert FlabPrunerConfig.from_dict(config.to_dict()) == config
    assert FlabPrunerConfig.from_json_file(folder / "flab_config.json") == config
    assert FlabPrunerConfig(**json.loads(config.to_json_string())) == config
    assert FlabPrunerConfig.from_yaml(folder / "flab.yaml") == config
    assert FlabPrunerConfig.from_yaml(folder / "flab_config.json") == config
    assert copy.deepcopy(config) == config
    for name, value in fields.items():
        if name not in SECTIONS:
            assert getattr(config, name) == value
            continue
        for field, wanted in value.items():
            assert getattr(getattr(config, name), field) == wanted


def test_it_is_an_optimum_configuration_that_writes_only_its_own_fields(tmp_path):
    config = FlabPrunerConfig(target_ratio=0.35)
    assert isinstance(config, BaseConfig)
    config.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["flab_config.json"]
    saved = json.loads((tmp_path / "flab_config.json").read_text(encoding="utf-8"))
    assert list(saved) == [*PrunerSettings.model_fields, "flab_version"] and saved == config.to_dict()


def test_its_arguments_are_the_fields_of_the_settings():
    parameters = signature(FlabPrunerConfig).parameters
    assert list(parameters) == list(PrunerSettings.model_fields) and parameters["seed"].default == 0
    config = FlabPrunerConfig(target_ratio=0.3, data={"corpus": "src"})
    assert config == pickle.loads(pickle.dumps(config)) and config.data.corpus == ["src"]


def test_two_configurations_differ_when_one_nested_field_does():
    assert FlabPrunerConfig() != FlabPrunerConfig(ffn={"multiple_of": 32})
    assert FlabPrunerConfig() != FlabPrunerConfig().to_dict()


def test_keys_added_by_transformers_and_optimum_are_ignored_and_no_others():
    extra = {"transformers_version": "5.0", "optimum_version": "2.0", "model_type": "", "flab_version": "9.9"}
    assert FlabPrunerConfig.from_dict({**FlabPrunerConfig(seed=3).to_dict(), **extra}) == FlabPrunerConfig(seed=3)
    with pytest.raises(ConfigurationError, match="torch_dtype: unknown setting"):
        FlabPrunerConfig.from_dict({"torch_dtype": "float32"})


def test_keyword_arguments_win_over_a_saved_file(tmp_path):
    FlabPrunerConfig(target_ratio=0.2, ffn={"multiple_of": 32}).save_pretrained(tmp_path)
    config = FlabPrunerConfig.from_pretrained(tmp_path, target_ratio=0.4, ffn={"criterion": "first"})
    assert (config.target_ratio, config.ffn.multiple_of, config.ffn.criterion) == (0.4, 32, "first")
    config, unused = FlabPrunerConfig.from_pretrained(tmp_path, seed=5, other=1, return_unused_kwargs=True)
    assert (config.seed, unused) == (5, {"other": 1})
    with pytest.raises(ConfigurationError, match="other: unknown setting"):
        FlabPrunerConfig.from_pretrained(tmp_path, other=1)


def test_sections_may_be_instances_and_are_not_shared():
    section = FFNSettings(multiple_of=16)
    config = FlabPrunerConfig(ffn=section)
    section.multiple_of = 8
    assert config.ffn.multiple_of == 16
    assert FlabPrunerConfig(data=None) == FlabPrunerConfig()


def test_one_source_may_be_given_bare_or_as_a_path():
    config = FlabPrunerConfig(data={"corpus": "src", "calibration": Path("a"), "held_out": [Path("b"), "c"]})
    assert (config.data.corpus, config.data.calibration, config.data.held_out) == (["src"], ["a"], ["b", "c"])


@pytest.mark.parametrize("share", [-0.1, 0, 1.01, 99.95])
def test_a_share_is_above_nothing_and_at_most_all(share):
    (line,) = faults(vocabulary={"coverage": share})
    bound = "greater than 0" if share <= 0 else "less than or equal to 1"
    assert line.partition("; write 99.95% as 0.9995")[0] == f"vocabulary.coverage: {share} should be {bound}"
    assert FlabPrunerConfig(vocabulary={"coverage": 1}).vocabulary.coverage == 1


def test_all_faults_are_reported_at_once():
    lines = faults(
        target_ratio=1.5,
        sed=1,
        data="x",
        vocab_size=-1,
        vocabulary={"keep_merge": 1, "corpus": ["x"]},
        ffn={"zzz": 3, "criterion": "best"},
        intermediate_sizes=4,
    )
    for line in (
        "target_ratio: 1.5 should be less than 1",
        "sed: unknown setting; near it are seed",
        "data: 'x' should be a valid dictionary or instance of DataSettings",
        "vocab_size: -1 should be greater than 0",
    ):
        assert line in lines
    for beginning in (
        "vocabulary.keep_merge: unknown setting; near it are vocabulary.keep_merges",
        "intermediate_sizes: unknown setting; near it are intermediate_size",
        "ffn.criterion: 'best' should be 'energy',",
    ):
        assert any(line.startswith(beginning) for line in lines)
    assert len(lines) == 9


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (3, "data.mix: 3 should be a valid dictionary"),
        (
            {"libary": 1},
            "data.mix: 'libary' should be 'own', 'answers', 'problems', 'library', 'chat' or 'infilling'",
        ),
        ({"own": -1}, "data.mix.own: -1 should be greater than or equal to 0"),
        ({"own": float("nan")}, "data.mix.own: nan should be a finite number"),
        (dict.fromkeys(("own", "answers", "problems", "library", "chat", "infilling"), 0), "data.mix: "),
    ],
)
def test_a_mix_has_shares_of_kinds(mix, message):
    (line,) = faults(data={"mix": mix})
    assert line.startswith(message)


def test_a_target_needs_something_that_is_free():
    rest = {"num_hidden_layers": 2, "ffn": {"enabled": False}}
    (line,) = faults(target_ratio=0.3, vocab_size=100, **rest)
    assert line == (
        "target_ratio: 0.3 leaves nothing to choose, since every component is pinned (vocab_size,"
        " num_hidden_layers) or not enabled; drop target_ratio or free one of them"
    )
    assert FlabPrunerConfig(target_ratio=0.3, **rest).target_ratio == 0.3
    assert FlabPrunerConfig(vocab_size=100, **rest).vocab_size == 100
    assert FlabPrunerConfig(vocabulary={"enabled": False, "min_count": 3}).vocabulary.min_count == 3


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        (
            "data",
            {"calibration_tokens": 100},
            "`data.calibration_tokens` 100 is less than one sequence",
        ),
        ("data", {"calibration": ["a", "b"], "held_out": ["b"]}, "held_out: 'b' is also trained or calibrated on"),
        ("data", {"corpus": ["b"], "held_out": ["b"]}, "held_out: 'b' is also trained or calibrated on"),
        ("recovery", {"micro_batch_size": 3}, "micro_batch_size 3 does not divide batch_size 8"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(section, fields, message):
    (line,) = faults(**{section: fields})
    assert line.startswith(f"{section}: {message}")


def test_changes_are_validated_before_they_are_saved(tmp_path):
    config = FlabPrunerConfig(data={"calibration_tokens": 1000})
    config.seed = -1
    with pytest.raises(ConfigurationError, match="seed: -1 should"):
        config.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="calibration_tokens"):
        config.data.sequence_length = 10**6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"seed": 1}}', "cannot be read: Extra data: line 1 column 12"),
        (b"ffn: [1\n", "line 2, column 1"),
        (b"[" * 10_000, "cannot be read: maximum recursion"),
        (b"- a\n- b\n", "holds a list; it needs a mapping"),
        (b"seed: \xff\xfe", "cannot be read: 'utf-8' codec can't decode byte 0xff in position 6"),
        (b"1: 2\nbensh: {}\n", "\n  bensh: unknown setting; near it are bench"),
        (b"ffn:\n  1: 2\n", "ffn.1: Keys should be strings"),
        (b"layers: off\n", "layers: False should be a valid dictionary or instance of LayerSettings"),
        (b"bench: {batch_size: 0}\n", "bench.batch_size: 0 should be greater than 0"),
        (b"seed: 2024-99-99\n", "cannot be read: month must be in 1..12"),
    ],
)
def test_a_bad_file_is_refused_with_its_fault(tmp_path, content, message):
    path = tmp_path / ("flab.json" if content[:1] == b"{" else "flab.yaml")
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        FlabPrunerConfig.from_yaml(path)
    assert message in str(caught.value)


# --- the sections of other verbs


def test_a_section_of_a_verb_lists_its_faults():
    with pytest.raises(ConfigurationError) as caught:
        EvaluationSettings(data=["x"], limit=0, taks=1)
    assert str(caught.value).splitlines() == [
        "faulty settings:",
        "  data: ['x'] should be a valid dictionary",
        "  limit: 0 should be greater than 0",
        "  taks: unknown setting; near it are tasks, data",
    ]


def test_a_long_value_is_not_repeated_whole():
    (line,) = faults(seed=["x" * 100] * 100)
    assert len(line) < 400 and line.startswith("seed: ['xxx")


def test_a_file_that_is_missing_or_a_folder_is_refused_by_name(tmp_path):
    for path in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read|no recipe") as caught:
            FlabPrunerConfig.from_yaml(path)
        assert str(path) in str(caught.value)


def test_an_empty_file_and_empty_sections_mean_the_defaults(tmp_path):
    path = tmp_path / "flab.yaml"
    for content in ("", "# nothing\n", "data:\nffn:\n"):
        path.write_text(content, encoding="utf-8")
        assert FlabPrunerConfig.from_yaml(path) == FlabPrunerConfig()


def test_a_file_is_read_as_utf_8(tmp_path):
    path = tmp_path / "flab.yaml"
    path.write_text("data: {corpus: größe/源.txt}\nvocabulary: {keep_tokens: [é, 🤗, ' x']}\n", encoding="utf-8")
    config = FlabPrunerConfig.from_yaml(path)
    assert (config.data.corpus, config.vocabulary.keep_tokens) == (["größe/源.txt"], ["é", "🤗", " x"])


@pytest.mark.parametrize("name", ["flab.yaml", "flab.json"])
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path, name):
    (tmp_path / name).write_text('{"seed": 7}', encoding="utf-8-sig")
    assert FlabPrunerConfig.from_yaml(tmp_path / name).seed == 7


def test_merging_replaces_fields_and_keeps_the_rest():
    below = {"seed": 1, "data": {"corpus": ["a", "b"], "batch_size": 2}, "ffn": None}
    above = {"data": {"corpus": ["c"]}, "ffn": {"multiple_of": 8}, "target_ratio": 0.2}
    assert merge_settings(below, above) == {
        "seed": 1,
        "data": {"corpus": ["c"], "batch_size": 2},
        "ffn": {"multiple_of": 8},
        "target_ratio": 0.2,
    }
    assert below == {"seed": 1, "data": {"corpus": ["a", "b"], "batch_size": 2}, "ffn": None}


def test_the_type_of_a_file_goes_with_its_size():
    (line,) = faults(target_ratio=0.3, target_type="q4_k_m")
    assert line.startswith("target_type: q4_k_m says which file `target_size` is about, which is not set")
    file = {"target_size": "100KB", "target_type": "q4_k_m"}
    assert merge_settings(file, {"target_ratio": 0.3}) == {"target_ratio": 0.3}
    assert merge_settings(file, {"target_size": "50KB"}) == {**file, "target_size": "50KB"}


def test_a_section_in_place_of_its_fields_can_be_overridden():
    base = {"layers": LayerSettings(enabled=False, search_tokens=8)}
    config = FlabPrunerConfig.from_dict(base, num_hidden_layers=3)
    assert (config.num_hidden_layers, config.layers) == (3, LayerSettings(search_tokens=8))
    assert FlabPrunerConfig.from_dict(base, layers={"criterion": "block-influence"}).layers.search_tokens == 8
    assert FlabPrunerConfig.from_dict(base).layers == base["layers"]


def test_the_last_word_on_a_component_wins():
    pinned, off = {"num_hidden_layers": 3}, {"layers": {"enabled": False}}
    config = FlabPrunerConfig(**merge_settings(pinned, off))
    assert (config.layers.enabled, config.num_hidden_layers) == (False, None)
    config = FlabPrunerConfig(**merge_settings(off, pinned))
    assert (config.layers.enabled, config.num_hidden_layers) == (True, 3)
    with pytest.raises(ConfigurationError, match="num_hidden_layers: 3 has no effect"):
        FlabPrunerConfig(**merge_settings({}, {**pinned, **off}))


def test_sections_win_as_what_they_set():
    off = FlabPrunerConfig(layers={"enabled": False}, target_ratio=0.3).layers
    assert merge_settings({"num_hidden_layers": 3}, {"layers": off}) == {"layers": {"enabled": False}}


@pytest.mark.parametrize("size", ["235", "85.5", "235000", 85, 85.5])
def test_a_size_has_a_unit_unless_it_is_a_large_number(size):
    with pytest.raises(ConfigurationError, match=f"has no unit, so that it would be bytes; write it as {size}MB"):
        FlabPrunerConfig(target_size=size)
    config = FlabPrunerConfig(target_size=235_000_000)
    assert config == FlabPrunerConfig(target_size="235000000")
    assert config.target_size == "235000000B" and FlabPrunerConfig(**config.to_dict()) == config


def test_a_faulty_section_below_is_still_reported_when_merged():
    assert merge_settings({"data": "x"}, {"data": {"batch_size": 2}}) == {"data": "x"}


def test_reading_a_file_validates_nothing(tmp_path):
    path = tmp_path / "flab.json"
    path.write_text('{"seed": -1, "other": "ünï"}', encoding="utf-8")
    assert read_settings_file(path) == {"seed": -1, "other": "ünï"}


def test_sizes_have_the_names_of_a_models_configuration():
    config = FlabPrunerConfig(vocab_size=32682, num_hidden_layers=24, intermediate_size=3840)
    config.num_experts = 4
    config.validate()
    assert FlabPrunerConfig.from_dict(config.to_dict()) == config and config.num_experts == 4
    for part in COMPONENTS:
        (line,) = faults(**{part.size: 4}, **{part.section: {"enabled": False}})
        assert line == f"{part.size}: 4 has no effect, since {part.section}.enabled is false; drop one of them"
        (line,) = faults(**{part.section: {"size" if part.section == "vocabulary" else part.size: 4}})
        assert part.size in line.partition("; near it are ")[2].split(", ")  # where it is now
