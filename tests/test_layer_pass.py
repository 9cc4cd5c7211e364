"""A pass over the layers, interrupted and resumed."""

import pytest
import torch

from optimum_flab.records.pieces import Pieces
from optimum_flab.running import layer_pass
from optimum_flab.running.layer_pass import STREAMS, LayerObserver, layer_piece

from .conftest import LAYERS, random_tokens, reading, tiny_model


class Means(LayerObserver):
    """Keeps the mean of what each odd layer makes of the stream, and a random number; ends after so many layers."""

    def __init__(self, reading, stop):
        super().__init__(reading, range(1, LAYERS, 2), "one")
        self.passed, self.stop = [], stop

    def observe(self, index):
        self.advance(index)
        draw = torch.rand((), generator=self.reading.generator)
        return {"mean": self.streams["one"][0].mean(), "draw": draw}

    def advance(self, index):
        if len(self.passed) == self.stop:
            raise KeyboardInterrupt
        self.passed.append(index)
        self.streams["one"] = self.reading.through(index, self.streams["one"])


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(layer_pass, "SECONDS_LOST", 0)


def run(folder, stop=LAYERS, order=None):
    options = {"generator": torch.Generator().manual_seed(1), "pieces": Pieces(folder)}
    layers = reading(tiny_model("llama"), random_tokens(60), **options)
    observer = Means(layers, stop)
    layers.run(observer, order=order)
    return observer


def kept(observer):
    return [{name: float(value) for name, value in observer.reading.kept(index).items()} for index in observer.layers]


@pytest.mark.parametrize("order", [None, [3, 1, 0, 2]], ids=["upwards", "another order"])
def test_a_pass_resumes_with_its_streams_and_random_numbers(tmp_path, order):
    whole = run(tmp_path / "whole", order=order)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "part", stop=2, order=order)
    resumed = run(tmp_path / "part", order=order)
    assert whole.passed == (order or list(range(LAYERS))) and resumed.passed == whole.passed[2:]
    assert kept(resumed) == kept(whole)
    for one, other in zip(whole.streams["one"], resumed.streams["one"], strict=True):
        assert one.equal(other)


def test_a_pass_starts_over_where_something_kept_is_missing(tmp_path):
    run(tmp_path)
    (tmp_path / f"{layer_piece(1)}.safetensors").unlink()
    assert run(tmp_path).passed == list(range(LAYERS))


def test_what_takes_little_time_is_done_again(tmp_path, monkeypatch):
    monkeypatch.setattr(layer_pass, "SECONDS_LOST", 1000)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop=2)
    resumed = run(tmp_path)
    assert resumed.passed == list(range(LAYERS)) and resumed.reading.pieces.read(STREAMS) is not None
    assert run(tmp_path).passed == []


@pytest.mark.parametrize("folder", [None, "pieces"])
def test_streams_are_saved_only_where_another_run_can_find_them(folder, tmp_path):
    observer = run(folder and tmp_path / folder)
    assert (observer.reading.pieces.read(STREAMS) is not None) is bool(folder)
