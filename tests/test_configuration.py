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

from optimum_flab import BenchSettings, ConfigurationError, EvaluationSettings, FlabPrunerConfig
from optimum_flab.settings.files import read_section, read_settings_file
from optimum_flab.settings.pruning import (
    KINDS,
    PRESETS,
    SECTIONS,
    FFNSettings,
    PrunerSettings,
    check_settings,
    merge_settings,
)


def faults(**values) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        FlabPrunerConfig(**values)
    heading, *lines = str(caught.value).splitlines()
    assert heading == f"{len(lines)} fault{'s' if len(lines) > 1 else ''} in the configuration:"
    return [line.strip() for line in lines]


texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), max_size=3)
valid_fields = st.fixed_dictionaries(
    {},
    optional={
        "target_ratio": st.none() | st.floats(0, 1, exclude_min=True, exclude_max=True),
        "seed": st.integers(0, 2**32 - 1),
        "align": st.none() | st.integers(1, 8),
        "data": st.fixed_dictionaries({"corpus": texts, "preset": st.sampled_from([None, *PRESETS])}),
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
    assert list(parameters) == [*PrunerSettings.model_fields, "kwargs"]
    assert (parameters["seed"].default, parameters["data"].default) == (0, None)
    config = FlabPrunerConfig(0.3, 4, None, {"corpus": "src"})
    assert (config.target_ratio, config.seed, config.align, config.data.corpus) == (0.3, 4, None, ["src"])
    assert config == pickle.loads(pickle.dumps(config)) == FlabPrunerConfig(0.3, data={"corpus": "src"}, seed=4)
    with pytest.raises(TypeError, match="multiple values for argument 'target_ratio'"):
        FlabPrunerConfig(0.3, target_ratio=0.3)


def test_two_configurations_differ_when_one_nested_field_does():
    assert FlabPrunerConfig() != FlabPrunerConfig(ffn={"multiple_of": 32})
    assert FlabPrunerConfig() != FlabPrunerConfig().to_dict()


def test_keys_added_by_transformers_and_optimum_are_ignored_and_no_others():
    extra = {"transformers_version": "5.0", "optimum_version": "2.0", "model_type": "", "flab_version": "9.9"}
    assert FlabPrunerConfig.from_dict({**FlabPrunerConfig(seed=3).to_dict(), **extra}) == FlabPrunerConfig(seed=3)
    with pytest.raises(ConfigurationError, match="torch_dtype: unknown field"):
        FlabPrunerConfig.from_dict({"torch_dtype": "float32"})


def test_keyword_arguments_win_over_a_saved_file(tmp_path):
    FlabPrunerConfig(target_ratio=0.2, ffn={"multiple_of": 32}).save_pretrained(tmp_path)
    config = FlabPrunerConfig.from_pretrained(tmp_path, target_ratio=0.4, ffn={"criterion": "first"})
    assert (config.target_ratio, config.ffn.multiple_of, config.ffn.criterion) == (0.4, 32, "first")
    config, unused = FlabPrunerConfig.from_pretrained(tmp_path, seed=5, other=1, return_unused_kwargs=True)
    assert (config.seed, unused) == (5, {"other": 1})
    with pytest.raises(ConfigurationError, match="other: unknown field"):
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


def test_all_faults_are_reported_at_once():
    lines = faults(
        target_ratio=1.5,
        sed=1,
        data="x",
        vocabulary={"keep_merge": 1, "size": -1, "corpus": ["x"]},
        ffn={"zzz": 3, "criterion": "best"},
        intermediate_sizes=4,
    )
    for line in (
        "target_ratio: 1.5 is not between 0 and 1; it is the share of all parameters to remove, for example 0.35",
        "sed: unknown field; did you mean 'seed'?",
        "vocabulary.keep_merge: unknown field; did you mean 'keep_merges'?",
        "vocabulary.corpus: unknown field; did you mean 'data.corpus'?",
        "vocabulary.size: -1 should be greater than or equal to 1",
        "ffn.zzz: unknown field; known fields: enabled, intermediate_size, multiple_of, criterion",
        "intermediate_sizes: unknown field; did you mean 'ffn.intermediate_size'?",
    ):
        assert line in lines
    assert any(line.startswith("data: 'x' is not a section; set its fields: corpus,") for line in lines)
    assert any(line.startswith("ffn.criterion: 'best' should be 'energy',") for line in lines)
    assert len(lines) == 9


@pytest.mark.parametrize("ratio", [0, 1, -0.1, float("nan"), "much", True, [0.3]])
def test_a_ratio_outside_zero_and_one_is_refused(ratio):
    (line,) = faults(target_ratio=ratio)
    assert line.startswith(f"target_ratio: {ratio!r} ")


@pytest.mark.parametrize(
    ("mix", "message"),
    [
        (3, "data.mix: 3 is not a mapping, such as {'own': 0.5, 'library': 0.5}"),
        ({"libary": 1}, "data.mix.libary: 'libary' should be 'own', 'problems', 'library', 'chat' or 'infilling'"),
        ({"own": -1}, "data.mix.own: -1 should be greater than or equal to 0"),
        ({"own": float("nan")}, "data.mix.own: nan should be a finite number"),
        (dict.fromkeys(KINDS, 0), "data.mix: "),
    ],
)
def test_a_mix_has_shares_of_kinds(mix, message):
    (line,) = faults(data={"mix": mix})
    assert line.startswith(message)


def test_a_target_needs_something_that_is_free():
    rest = {"layers": {"num_hidden_layers": 2}, "ffn": {"enabled": False}}
    (line,) = faults(target_ratio=0.3, vocabulary={"size": 100}, **rest)
    assert line == (
        "target_ratio: 0.3 leaves nothing to choose, since vocabulary.size is pinned at 100, "
        "layers.num_hidden_layers is pinned at 2, ffn.enabled is false; drop target_ratio or free one of them"
    )
    assert FlabPrunerConfig(target_ratio=0.3, **rest).target_ratio == 0.3
    assert FlabPrunerConfig(vocabulary={"size": 100}, **rest).vocabulary.size == 100
    assert FlabPrunerConfig(vocabulary={"enabled": False, "min_count": 3}).vocabulary.min_count == 3


def test_what_decides_a_component_that_stays_or_is_decided_already_is_a_contradiction():
    data = {"preset": "web", "counts": "a.npz"}
    vocabulary = {"enabled": False, "size": 3, "coverage": 0.9, "pad_to_multiple_of": 8}
    why = "has no effect, since vocabulary.enabled is false; drop it or switch vocabulary on"
    assert faults(data=data, vocabulary=vocabulary) == [
        f"vocabulary.size: 3 {why}",
        f"vocabulary.pad_to_multiple_of: 8 {why}",
        f"vocabulary.coverage: 0.9 {why}",
        f"data.preset: 'web' {why}",
        f"data.counts: ['a.npz'] {why}",
        "vocabulary.coverage: 0.9 decides a size, and vocabulary.size is pinned at 3; drop one of them",
    ]
    # which fields contradict each other is only known once each is valid
    assert faults(vocabulary=vocabulary, seed=-1) == ["seed: -1 should be greater than or equal to 0"]


def test_calibration_shorter_than_a_sequence_and_measuring_on_calibration_text_are_contradictions():
    lines = faults(data={"calibration_tokens": 100, "calibration": ["a", "b"], "held_out": ["b"]})
    assert lines[0].startswith("data.calibration_tokens: 100 is less than one sequence (data.sequence_length is 512)")
    assert lines[1].startswith("data.held_out: 'b' is also a calibration source")


def test_changes_are_validated_before_they_are_saved(tmp_path):
    config = FlabPrunerConfig(layers={"num_hidden_layers": 3})
    config.validate()
    config.layers.enabled = False
    config.data.sequence_length = 10**6
    with pytest.raises(ConfigurationError, match="2 faults"):
        config.validate()
    with pytest.raises(ConfigurationError, match="2 faults"):
        config.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_pushing_a_configuration_alone_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigurationError, match="push_to_hub"):
        FlabPrunerConfig().save_pretrained(tmp_path / "new", push_to_hub=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"seed": 1}}', "is not valid JSON: Extra data: line 1 column 12"),
        (b"ffn:\n  multiple_of: 8\n  multiple_of: 16\n", "line 3, column 3 is not valid YAML: field 'multiple_of'"),
        (b"seed: 1\nseed: 1\n", "field 'seed' is set twice"),
        (b"ffn: [1\n", "is not valid YAML"),
        (b"- a\n- b\n", "holds a list; it needs a mapping with some of the fields target_ratio, seed,"),
        (b"seed: \xff\xfe", "cannot be read: 'utf-8' codec can't decode byte 0xff in position 6"),
        (b"? [1, 2]\n: 3\n", "is not valid YAML: unhashable type"),
        (b"1: 2\nsed: 3\n", "flab.yaml':\n  1: unknown field; known fields: target_ratio, "),
        (b"1: 2\nsed: 3\n", "\n  sed: unknown field; did you mean 'seed'?"),
        (b"bensh: {}\n", "bensh: unknown field; did you mean 'bench'?"),
        (b"tasks: mbpp\n", "tasks: unknown field; did you mean 'evaluation.tasks'?"),
        (b"ffn:\n  1: 2\n", "ffn.1"),
        (b"layers: off\n", "layers: False is not a section; set its fields: enabled,"),
        (b"seed: 2024-99-99\n", "is not valid YAML: month must be in 1..12"),
        (b"data: {1.5: 2}\n", "data.1.5: 1.5 Keys should be strings"),
    ],
)
def test_a_bad_file_is_refused_with_the_place_of_the_fault(tmp_path, content, message):
    path = tmp_path / ("flab.json" if content[:1] == b"{" else "flab.yaml")
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        FlabPrunerConfig.from_yaml(path)
    assert message in str(caught.value)


# --- the sections of other verbs


def test_a_section_of_a_verb_lists_its_faults_and_what_is_refused_stays_as_it_was():
    with pytest.raises(ConfigurationError) as caught:
        EvaluationSettings(tasks="mbpp", data=["x"], limit=0, taks=1)
    assert str(caught.value).splitlines() == [
        "3 faults in the evaluation settings:",
        "  data: ['x'] is not a mapping, such as {'humaneval': './HumanEval.jsonl'}",
        "  limit: 0 should be greater than or equal to 1",
        "  taks: unknown field; did you mean 'tasks'?",
    ]
    settings = EvaluationSettings(tasks="perplexity", data={"perplexity": "text"}, include_path=Path("a"))
    with pytest.raises(ConfigurationError, match="has task 'perplexity', which is not among those requested"):
        settings.tasks = "mbpp"
    assert settings.tasks == ["perplexity"] and settings.include_path == "a"


def test_a_fault_in_the_section_of_another_verb_is_not_told(tmp_path):
    path = tmp_path / "flab.yaml"
    path.write_text("seed: 1\nbench: {batch_size: 0}\nevaluation: [mbpp]\n", encoding="utf-8")
    assert FlabPrunerConfig.from_yaml(path).seed == 1
    for kind, message in ((BenchSettings, "  batch_size: 0 should"), (EvaluationSettings, r"\['mbpp'\] is not a sec")):
        with pytest.raises(ConfigurationError, match=message):
            kind(**read_section(path, kind))


def test_a_long_value_is_not_repeated_whole():
    with pytest.raises(ConfigurationError) as caught:
        FlabPrunerConfig(seed=["x" * 100] * 100)
    assert len(str(caught.value)) < 400 and "seed: ['xxx" in str(caught.value)


def test_a_file_that_is_missing_or_a_folder_is_refused_by_name(tmp_path):
    for path in (tmp_path / "no.yaml", tmp_path, tmp_path / ("long" * 100)):
        with pytest.raises(ConfigurationError, match="cannot be read") as caught:
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


@pytest.mark.parametrize(
    ("below", "above", "mix"),
    [
        ({"own": 0.5, "chat": 0.2, "infilling": 0.3}, {"infilling": 0}, {"own": 0.5, "chat": 0.2}),
        ({"chat": 0}, {"infilling": 0}, {kind: KINDS[kind] for kind in ("own", "problems", "library")}),
        ({"own": 0.5, "chat": 0.5}, {"library": 1, "own": 0}, {"library": 1}),
        ({"own": 0.5, "chat": 0.5}, {}, {"own": 0.5, "chat": 0.5}),
    ],
)
def test_kinds_are_left_out_of_the_mix_below(below, above, mix):
    merged = check_settings(merge_settings({"data": {"mix": below}}, {"data": {"mix": above}})).data.mix
    assert {kind: share for kind, share in merged.items() if share} == mix


def test_of_a_mix_below_something_must_be_left():
    with pytest.raises(ConfigurationError, match="leaves no text"):
        check_settings(merge_settings({"data": {"mix": {"infilling": 1}}}, {"data": {"mix": {"infilling": 0}}}))


def test_a_section_in_place_of_its_fields_can_be_overridden():
    base = {"layers": FlabPrunerConfig(layers={"num_hidden_layers": 2}).layers}
    assert FlabPrunerConfig.from_dict(base, layers={"num_hidden_layers": 3}).layers.num_hidden_layers == 3
    assert FlabPrunerConfig.from_dict(base, layers={"enabled": False}).layers.num_hidden_layers is None
    assert FlabPrunerConfig.from_dict(base).layers.num_hidden_layers == 2


def test_the_last_word_on_a_component_wins():
    off = merge_settings({"layers": {"num_hidden_layers": 3}}, {"layers": {"enabled": False}})
    assert check_settings(off).layers.enabled is False
    on = merge_settings({"layers": {"enabled": False}}, {"layers": {"num_hidden_layers": 3}})
    assert check_settings(on).layers.enabled is True
    both = {"layers": {"enabled": False, "num_hidden_layers": 3}}
    with pytest.raises(ConfigurationError, match="has no effect, since layers.enabled is false"):
        check_settings(merge_settings({}, both))


def test_a_faulty_section_below_is_still_reported_when_merged():
    with pytest.raises(ConfigurationError, match="data: 'x' is not a section"):
        check_settings(merge_settings({"data": "x"}, {"data": {"batch_size": 2}}))


def test_reading_a_file_validates_nothing(tmp_path):
    path = tmp_path / "flab.json"
    path.write_text('{"seed": -1, "other": "ünï"}', encoding="utf-8")
    assert read_settings_file(path) == {"seed": -1, "other": "ünï"}
