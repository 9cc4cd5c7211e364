"""Files of counts: what is read is what was written, pieces add up, and nothing else passes for one."""

from __future__ import annotations

import io
import json
import random
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimum_flab.records.counts import TokenCounts
from optimum_flab.utils.errors import ConfigurationError, FlabError
from optimum_flab.vocabulary.usage import TokenUsage


SIZE = 40


def usage(counts, texts=1, size=10):
    counts = np.array(counts, dtype=np.int64)
    return TokenUsage(counts, texts, int(counts.sum()), size)


def counted(sources, tokenizer="a" * 64, model="org/model", datasets=()):
    return TokenCounts(model, tokenizer, sources, frozenset(datasets))


@pytest.fixture
def two():
    rng = np.random.default_rng(0)
    sources = {name: usage(rng.integers(0, 1000, SIZE), 3, 77) for name in ("org/data:train[text]", "./src é")}
    return counted(dict(sorted(sources.items())), datasets=["org/data"])


PIECES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]), st.lists(st.integers(0, 10**12), min_size=3, max_size=3), st.integers(0, 2)
    ),
    min_size=1,
    max_size=9,
)


@settings(max_examples=50, deadline=None)
@given(pieces=PIECES, files=st.integers(1, 4), seed=st.integers(0, 99))
def test_however_sources_are_cut_and_put_together_the_counts_are_those_of_the_whole(pieces, files, seed):
    whole = {}
    for name, counts, texts in pieces:
        one = usage(counts, texts, 2 * texts)
        whole[name] = whole[name] + one if name in whole else one
    rng = random.Random(seed)
    by_file = [[] for _ in range(files)]
    for piece in pieces:
        rng.choice(by_file).append(piece)
    parts = [
        TokenCounts.merged([counted({name: usage(counts, texts, 2 * texts)}) for name, counts, texts in found])
        for found in by_file
        if found
    ]
    rng.shuffle(parts)
    together = TokenCounts.merged(parts)
    assert together.hash == counted(whole).hash
    assert list(together.sources) == sorted(whole)
    for name, one in together.sources.items():
        assert (one.texts, one.tokens, one.bytes) == (whole[name].texts, whole[name].tokens, whole[name].bytes)
        assert one.counts.tolist() == whole[name].counts.tolist()


def test_what_is_read_is_what_was_written_and_the_same_counts_give_the_same_bytes(two, tmp_path):
    two.save(tmp_path / "new" / "a.npz")
    two.save(tmp_path / "b.npz")
    found = TokenCounts.load(tmp_path / "b.npz")
    assert (tmp_path / "new" / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert (found.model, found.tokenizer, found.datasets, found.hash) == (
        two.model,
        two.tokenizer,
        two.datasets,
        two.hash,
    )
    for name, one in two.sources.items():
        other = found.sources[name]
        assert other.counts.dtype == np.int64 and other.counts.tolist() == one.counts.tolist()
        assert (other.texts, other.tokens, other.bytes) == (one.texts, one.tokens, one.bytes)
    lines = found.to_text().splitlines()
    assert lines[-1].split()[:2] == ["6", f"{two.total().tokens:,}"] and "org/data:train[text]" in found.to_text()


def test_what_decides_has_another_hash(two):
    name, one = next(iter(two.sources.items()))
    others = [
        counted(two.sources, tokenizer="b" * 64),
        counted({**two.sources, "more": one}),
        counted({**two.sources, name: usage(one.counts[::-1])}),
        counted({("x" if key == name else key): value for key, value in two.sources.items()}),
    ]
    assert len({two.hash, *(other.hash for other in others)}) == 5
    assert counted(two.sources, model="other/name").hash == two.hash


def test_counts_of_two_tokenizers_do_not_add_up(two):
    other = counted(two.sources, tokenizer="b" * 64, model="other/model")
    with pytest.raises(FlabError, match="tokenizers of 'org/model' and 'other/model'.*cannot be added up"):
        TokenCounts.merged([two, other])
    with pytest.raises(FlabError, match="no counts"):
        TokenCounts.merged([])


def test_nothing_is_replaced_unless_it_is_asked_for(two, tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"something of mine")
    with pytest.raises(ConfigurationError, match="already exists; name another file, or set `overwrite`"):
        two.save(path)
    assert path.read_bytes() == b"something of mine"
    two.save(path, overwrite=True)
    assert TokenCounts.load(path).hash == two.hash
    (tmp_path / "folder.npz").mkdir()
    for name, message in (("folder.npz", "is a folder"), ("a.txt", r"does not end in \.npz")):
        with pytest.raises(ConfigurationError, match=message):
            two.save(tmp_path / name, overwrite=True)


def test_a_file_that_cannot_be_written_is_an_error_of_the_user(two, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FlabError, match="cannot be written"):
        two.save(tmp_path / "file" / "a.npz")


def written(path, counts, **changes):
    sources = [{"name": f"s{row}", "texts": 1, "tokens": int(one.sum()), "bytes": 1} for row, one in enumerate(counts)]
    about = {"format": 1, "model": "m", "tokenizer": "t", "sources": sources, "datasets": [], "version": "9.9"}
    np.savez(path, about=np.array(json.dumps({**about, **changes})), counts=counts)
    return path


@pytest.mark.parametrize(
    ("counts", "changes", "message"),
    [
        ([[1]], {"sources": [{"name": "s", "texts": -1, "tokens": 1, "bytes": 1}]}, "sources.0.texts"),
        ([[1.5]], {}, "is damaged: its counts are not those of its sources"),
        ([[1], [1]], {"sources": [{"name": "s", "texts": 1, "tokens": 1, "bytes": 1}]}, "is damaged: its counts"),
        ([[1]], {"format": 2}, r"has format 2, and optimum-flab \S+ reads formats up to 1; install a newer version"),
    ],
)
def test_what_cannot_be_counts_is_refused(counts, changes, message, tmp_path):
    path = written(tmp_path / "a.npz", np.array(counts), **changes)
    with pytest.raises(FlabError, match=message) as caught:
        TokenCounts.load(path)
    assert "a.npz" in str(caught.value)


class Harmful:
    def __reduce__(self):
        return open, ("harm", "w")


def test_what_is_no_file_of_counts_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FlabError, match=r"'a\.npz' does not exist"):
        TokenCounts.load("a.npz")
    np.savez("a.npz", about=np.array([Harmful()], dtype=object), counts=np.ones((1, 1), dtype=np.int64))
    contents = {"pickle": (tmp_path / "a.npz").read_bytes(), "text": b"def f(): pass\n", "nothing": b""}
    np.savez("a.npz", other=np.ones(3))
    contents["other arrays"] = (tmp_path / "a.npz").read_bytes()
    with zipfile.ZipFile("a.npz", "w") as archive:
        archive.writestr("about.npy", b"no array")
        archive.writestr("counts.npy", b"no array")
    contents["no arrays"] = (tmp_path / "a.npz").read_bytes()
    array = io.BytesIO()
    np.save(array, np.ones(3))
    contents["one array"] = array.getvalue()
    for what, content in contents.items():
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(FlabError, match=r"'a\.npz' is not a file of counts, or damaged"):
            TokenCounts.load("a.npz")
            pytest.fail(what)
    assert not (tmp_path / "harm").exists()


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flipped=st.integers(1, 255), cut=st.booleans())
def test_a_damaged_file_gives_an_error_or_the_counts_that_were_written(place, flipped, cut, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.unlink(missing_ok=True)
    whole = counted({"a": usage(np.arange(SIZE)), "b": usage(np.arange(SIZE)[::-1])})
    whole.save(path)
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    if cut:
        content = content[:at]
    else:
        content[at] ^= flipped
    path.write_bytes(content)
    try:
        found = TokenCounts.load(path)
    except FlabError as error:
        assert "damaged.npz" in str(error)
    else:
        assert not cut and found.hash == whole.hash
