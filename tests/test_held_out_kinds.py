"""What pruning cost by kind of text, by kind of token and by layer."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import TEXTS, byte_level_tokenizer, reading, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AddedToken

from optimum_flab.measuring.held_out import DenseReference, tokenise_both
from optimum_flab.measuring.token_kinds import kind_of, token_kinds
from optimum_flab.settings.pruning import KINDS
from optimum_flab.texts.sets import part_by_kind
from optimum_flab.texts.sources import Document
from optimum_flab.vocabulary.closure import natural_vocabulary, read_spec
from optimum_flab.vocabulary.rewrite import rewrite_tokenizer
from optimum_flab.vocabulary.usage import count_tokens


TOKEN_KINDS = [
    "names and words",
    "Python keywords",
    "numbers",
    "signs",
    "line ends and indentation",
    "special tokens",
    "other",
]


@pytest.mark.parametrize("around", [False, True])
def test_kinds_are_measured_in_one_pass_as_alone(around):
    tokenizer = byte_level_tokenizer()
    if around:  # special tokens before and behind every piece of a text
        number = tokenizer.convert_tokens_to_ids("<|pad|>")
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|pad|> <|pad|> $A <|pad|>", special_tokens=[("<|pad|>", number)]
        )
    dense = tiny_model("llama", vocab_size=len(tokenizer))
    pruned = copy.deepcopy(dense)
    with torch.no_grad():
        for name, weight in pruned.named_parameters():
            if "down_proj" in name:
                weight.mul_(0.5)
    texts = TEXTS[:6]
    kinds = ["held-out", "own", "library", "own", "held-out", "library"]

    def measured(chosen, names=()):
        cut = tokenise_both(tokenizer, tokenizer, None, len(tokenizer), chosen, 48, names)
        return DenseReference(reading(dense, cut.shared), cut).measure(pruned)

    found = measured(texts, kinds)
    assert list(found.by_kind) == ["held-out", "own", "library"] and not measured(texts).by_kind
    for kind, cost in found.by_kind.items():
        alone = measured([text for text, one in zip(texts, kinds, strict=True) if one == kind])
        assert (cost.texts, cost.bytes, cost.positions) == (alone.texts, alone.bytes, alone.positions)
        for name in ("divergence", "dense_bits_per_byte", "pruned_bits_per_byte"):
            assert getattr(cost, name) == pytest.approx(getattr(alone, name), rel=1e-4)
    named = found.by_kind["held-out"]
    assert (found.texts, found.divergence) == (named.texts, named.divergence)
    assert measured(texts, [kind.replace("held-out", "chat") for kind in kinds]).texts == 6


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (" return", "Python keywords"),
        ("returned", "names and words"),
        (" _private", "names and words"),
        ("x2", "names and words"),
        ("é", "names and words"),
        ("42", "numbers"),
        ("3.14", "numbers"),
        (" ==", "signs"),
        ("):", "signs"),
        (".append", "other"),
        ("\n    ", "line ends and indentation"),
        ("):\n", "signs"),
        ("\N{REPLACEMENT CHARACTER}", "other"),
    ],
)
def test_the_kind_of_a_token(text, kind):
    assert kind_of(text) == kind


def test_an_added_token_is_special_only_if_it_says_so():
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens([AddedToken("        ", normalized=False), AddedToken("lambda_", normalized=False)])
    tokenizer.add_tokens([AddedToken("<|note|>", special=True)], special_tokens=False)
    ids = np.array(tokenizer.convert_tokens_to_ids(["        ", "<|note|>", "lambda_", "<|pad|>"]))
    assert [TOKEN_KINDS[place] for place in token_kinds(tokenizer, ids)] == [
        "line ends and indentation",
        "special tokens",
        "names and words",
        "special tokens",
    ]


def test_a_smaller_vocabulary_alone_is_measured_without_running_the_model():
    """As the model with fewer rows would be measured, but for the rounding of its own pass."""
    tokenizer = byte_level_tokenizer()
    dense = tiny_model("llama", vocab_size=len(tokenizer)).eval()
    kept = natural_vocabulary(read_spec(tokenizer), count_tokens(tokenizer, TEXTS[:3]).counts).kept
    new = rewrite_tokenizer(tokenizer, kept)
    pruned = tiny_model("llama", vocab_size=len(kept)).eval()
    weights = dense.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][torch.from_numpy(kept)]
    pruned.load_state_dict(weights)
    cut = tokenise_both(tokenizer, new, kept.tolist(), len(kept), TEXTS, 48, ["own"] * len(TEXTS))
    side = DenseReference(reading(dense, cut.shared), cut, range(len(dense.model.layers)))
    found, run = side.measure_vocabulary(), side.measure(pruned)
    assert cut.counts["texts_cut_differently"].any() and found.divergence == 0 == found.by_layer[-1].drift
    assert abs(run.divergence) < 1e-5
    for name in ("pruned_bits_per_byte", "dense_bits_per_byte", "lost_mass"):
        assert getattr(found, name) == pytest.approx(getattr(run, name), rel=1e-4)
    assert (found.positions, found.texts, found.by_kind.keys()) == (run.positions, run.texts, run.by_kind.keys())


def test_costs_by_token_and_by_layer_are_those_of_the_plain_models():
    """Against transformers' own hidden states and logits, one text at a time."""
    tokenizer = byte_level_tokenizer()
    dense = tiny_model("llama", vocab_size=len(tokenizer)).eval()
    kept = [0, 2]
    pruned = copy.deepcopy(dense)
    pruned.model.layers = torch.nn.ModuleList([pruned.model.layers[index] for index in kept])
    pruned.config.num_hidden_layers = len(kept)
    with torch.no_grad():
        pruned.model.layers[1].mlp.down_proj.weight.mul_(0.5)
    text = max(TEXTS, key=len)
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    cut = tokenise_both(tokenizer, tokenizer, None, len(tokenizer), [text], ids.shape[1])
    found = DenseReference(reading(dense, cut.shared), cut, kept).measure(pruned)

    streams: dict[str, list[torch.Tensor]] = {"dense": [], "pruned": []}
    logits = {}
    for name, model in (("dense", dense), ("pruned", pruned)):
        hooks = [
            layer.register_forward_hook(
                lambda _module, _inputs, output, name=name: streams[name].append(
                    output[0] if isinstance(output, tuple) else output
                )
            )
            for layer in model.model.layers
        ]
        with torch.no_grad():
            logits[name] = model(ids, use_cache=False).logits[0, :-1].double().log_softmax(-1)
        for hook in hooks:
            hook.remove()
    far = (logits["dense"].exp() * (logits["dense"] - logits["pruned"])).sum(-1).numpy()
    kinds = token_kinds(tokenizer, ids[0, 1:].numpy())
    assert sum(cost.positions for cost in found.by_token.values()) == found.positions == len(far)
    for place, name in enumerate(TOKEN_KINDS):
        if (chosen := kinds == place).any():
            assert found.by_token[name].positions == chosen.sum()
            assert found.by_token[name].divergence == pytest.approx(far[chosen].mean(), rel=1e-3)
    assert [row.layer for row in found.by_layer] == kept and len(far) <= 256
    for place, row in enumerate(found.by_layer):
        one, other = (states[0, :-1].double() for states in (streams["dense"][row.layer], streams["pruned"][place]))
        expected = ((other - one).square().sum(-1) / one.square().sum(-1)).mean()
        assert row.drift == pytest.approx(float(expected), rel=0.02, abs=1e-12)
    assert found.by_layer[0].drift == 0 < found.by_layer[1].drift
    counts = [cost.positions for cost in found.by_token.values()]
    assert counts == sorted(counts, reverse=True) and np.isfinite(counts).all()


@given(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=40), st.integers(1, 6))
def test_a_part_has_its_share_of_every_kind(kinds, part):
    documents = [Document(str(number), "", kind=kind) for number, kind in enumerate(kinds)]
    taken = part_by_kind(documents, part)
    assert taken == [document for document in documents if document in taken]
    for kind in KINDS:
        assert sum(document.kind == kind for document in taken) == -(-kinds.count(kind) // part)
