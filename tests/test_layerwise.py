"""Running a decoder one layer at a time."""

from __future__ import annotations

import torch

from optimum_flab.families import family_for
from optimum_flab.running.layerwise import _layers_recorded, layer_inputs

from .conftest import random_tokens, tiny_model


def test_what_recorded_layers_pass_on_can_be_read_as_a_tensor_and_as_the_first_item_of_a_tuple():
    """Models of transformers before 5.24 take the first item of what some layers return."""
    model, record = tiny_model("qwen2"), []
    layers, hidden = family_for(model.config).decoder_layers(model), torch.randn(2, 3, 4)
    with _layers_recorded(layers, record):
        first = layers[0](hidden, attention_mask=None)
        second = layers[1](first[0])
    assert first[0].shape == second.shape == hidden.shape
    assert torch.equal(second[:, 0], hidden[:, 0]) and torch.equal(second[1], hidden[1])
    assert record == [{"attention_mask": None}, {}]


def test_what_layers_read_is_a_plain_tensor():
    model = tiny_model("qwen2")
    assert type(layer_inputs(model, family_for(model.config), random_tokens()).hidden) is torch.Tensor
