import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.records.plan import PruningPlan
from optimum_flab.utils.errors import FlabError


indices = st.lists(st.integers(0, 10**6), unique=True, max_size=20).map(sorted)


def plan(**changes) -> PruningPlan:
    fields = {
        "base_model": "org/model",
        "base_revision": None,
        "base_hash": "a",
        "corpus_hash": "b",
        "vocab_size": 2,
        "kept": {"layer": [0, 1], "neuron": {0: [1, 2], 1: [0, 3]}, "vocab": [0, 2]},
        "dtype": "bfloat16",
        "settings": {"target_ratio": 0.3},
        "weights": {"w": torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)},
    }
    return PruningPlan(**{**fields, **changes})


@given(
    tokens=indices,
    layers=indices,
    neurons=st.dictionaries(st.integers(0, 50), indices)
    | st.dictionaries(st.integers(0, 50), st.lists(indices, min_size=1, max_size=3), max_size=3),
    name=st.text(),
)
@settings(max_examples=50, deadline=None)
def test_round_trip(tmp_path_factory, tokens, layers, neurons, name):
    folder = tmp_path_factory.mktemp("plan")
    before = plan(kept={"vocab": tokens, "layer": layers, "neuron": neurons}, base_model=name)
    before.save(folder)
    after = PruningPlan.load(folder)
    assert after == before
    assert torch.equal(after.weights["w"], before.weights["w"])


def test_it_is_loaded_from_its_file_and_is_json_that_a_person_can_diff(tmp_path):
    plan().save(tmp_path)
    assert PruningPlan.load(tmp_path / "flab_plan.json") == plan()
    text = (tmp_path / "flab_plan.json").read_text()
    assert json.loads(text)["kept"]["neuron"] == {"0": [1, 2], "1": [0, 3]}
    assert '\n      "1": [0, 3]\n' in text and '\n    "vocab": [0, 2]\n' in text


def test_without_compensation_there_is_one_file(tmp_path):
    plan(weights={}).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["flab_plan.json"]
    assert PruningPlan.load(tmp_path).weights == {}


def test_tensors_that_no_plan_names_are_refused(tmp_path):
    plan().save(tmp_path)
    plan(weights={}).save(tmp_path)
    with pytest.raises(FlabError, match="does not belong to"):
        PruningPlan.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', "not json", "[" * 100_000])
def test_what_is_no_plan_is_refused(tmp_path, text):
    (tmp_path / "flab_plan.json").write_text(text)
    with pytest.raises(FlabError, match="; name the folder of a pruned model, or its flab_plan.json"):
        PruningPlan.load(tmp_path)


def test_missing_or_foreign_tensors_are_refused(tmp_path):
    with pytest.raises(FlabError, match="cannot be read"):
        PruningPlan.load(tmp_path / "nowhere")
    plan().save(tmp_path)
    (tmp_path / "flab_plan.safetensors").unlink()
    with pytest.raises(FlabError, match="cannot be read, or does not belong"):
        PruningPlan.load(tmp_path)
    plan(weights={"other": torch.zeros(1)}).save(tmp_path)
    text = (tmp_path / "flab_plan.json").read_text().replace('"other"', '"w"')
    (tmp_path / "flab_plan.json").write_text(text)
    with pytest.raises(FlabError, match="does not belong"):
        PruningPlan.load(tmp_path)


def test_a_plan_of_a_later_format_is_refused(tmp_path):
    plan().save(tmp_path)
    file = tmp_path / "flab_plan.json"
    file.write_text(file.read_text().replace('"format": 3', '"format": 4'))
    with pytest.raises(FlabError, match="has format 4, .* reads formats up to 3; install a newer version"):
        PruningPlan.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kept", {"layer": [True]}),
        ("kept", {"layer": [-1]}),
        ("kept", {"layer": None}),
        ("kept", {"vocab": [0]}),
        ("kept", {"layer": [0], "vocab": [0.5]}),
        ("kept", {"layer": [0], "neuron": {"first": [1]}}),
        ("kept", {"layer": [0], "neuron": {"0": [None]}}),
        ("vocab_size", 0),
        ("settings", []),
        ("extra", 1),
    ],
    ids=str,
)
def test_a_plan_with_a_value_of_another_kind_is_refused_by_its_name(tmp_path, field, value):
    plan(weights={}).save(tmp_path)
    content = json.loads((tmp_path / "flab_plan.json").read_text())
    (tmp_path / "flab_plan.json").write_text(json.dumps({**content, field: value}))
    with pytest.raises(FlabError, match=rf"is not as it was written \({field}"):
        PruningPlan.load(tmp_path)
