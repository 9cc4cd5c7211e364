"""Reading tensors as they are asked for, and writing them one after the other."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from optimum_flab.tensors import DTYPES, StoredTensors, write_tensors


SHAPES = st.lists(st.integers(0, 4), max_size=3)
CONTENTS = st.dictionaries(
    st.text(min_size=1, max_size=8), st.tuples(st.sampled_from(list(DTYPES.values())), SHAPES), min_size=1, max_size=6
)


def made(contents, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.rand(shape, generator=generator) * 100).to(dtype)
        for name, (dtype, shape) in contents.items()
        if name != "__metadata__"
    }


@given(CONTENTS, st.integers(0, 1000), st.randoms())
@settings(max_examples=200, deadline=None)
def test_the_bytes_are_those_of_the_library(tmp_path_factory, contents, seed, random):
    tensors, folder = made(contents, seed), tmp_path_factory.mktemp("tensors")
    metadata = random.choice([None, {"format": "pt"}])
    save_file(tensors, folder / "theirs", metadata)
    items = list(tensors.items())
    random.shuffle(items)
    outlines = {name: tensor.to("meta") for name, tensor in tensors.items()}
    write_tensors(folder / "ours", outlines, iter(items), metadata)
    assert (folder / "ours").read_bytes() == (folder / "theirs").read_bytes()


def test_they_are_read_one_at_a_time_from_several_files(tmp_path):
    parts = [{"a": torch.arange(6).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}, {"c": torch.zeros(0, 2)}]
    paths = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for part, path in zip(parts, paths, strict=True):
        save_file(part, path)
    stored = StoredTensors(paths)
    assert sorted(stored) == ["a", "b", "c"] and len(stored) == 3
    for name, tensor in {**parts[0], **parts[1]}.items():
        assert stored[name].equal(tensor) and stored[name].dtype == tensor.dtype
        outline = stored.outlines[name]
        assert outline.is_meta and (outline.shape, outline.dtype) == (tensor.shape, tensor.dtype)


@pytest.mark.parametrize(
    ("given_tensors", "said"),
    [
        ({"a": torch.ones(2)}, "1 tensors are missing, b among them"),
        ({"a": torch.ones(3), "b": torch.ones(1)}, "a is"),
        ({"a": torch.ones(2).half(), "b": torch.ones(1)}, "a is"),
    ],
)
def test_what_does_not_fit_its_outline_is_refused(tmp_path, given_tensors, said):
    outlines = {"a": torch.empty(2, device="meta"), "b": torch.empty(1, device="meta")}
    with pytest.raises(ValueError, match=said):
        write_tensors(tmp_path / "file", outlines, given_tensors.items())


def test_what_was_written_is_what_was_given(tmp_path):
    tensors = {"x": torch.randn(3, 5), "y": torch.randn(4).bfloat16()}
    write_tensors(tmp_path / "file", tensors, tensors.items())
    for name, tensor in load_file(tmp_path / "file").items():
        assert tensor.equal(tensors[name])
