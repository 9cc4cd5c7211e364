"""Every criterion is described, chosen, computed and printed under one name, and its formula is what is computed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from optimum_flab import criteria
from optimum_flab.criteria import CHOICES, EXPERTS, LAYERS, NEURONS
from optimum_flab.criteria import base as criteria_base
from optimum_flab.criteria.base import BLOCKS, by_score
from optimum_flab.criteria.statistics import NeuronStatistics
from optimum_flab.families import family_for
from optimum_flab.pruning.components.layers import ranked_layers
from optimum_flab.settings.pruning import COMPONENTS, SECTIONS, PrunerSettings
from optimum_flab.utils.errors import FlabError

from .conftest import random_tokens, reading, tiny_model


EVERY = [(section, name) for section, choices in CHOICES.items() for name in choices]


# --- nothing was forgotten


def test_every_section_that_has_a_criterion_is_known_everywhere():
    sections = {name for name, section in SECTIONS.items() if "criterion" in section.model_fields}
    assert sections == set(CHOICES), "a section of the settings and CHOICES in optimum_flab/criteria/__init__.py"
    assert sections <= {part.section for part in COMPONENTS}


@pytest.mark.parametrize("section", CHOICES)
def test_names_are_those_of_the_setting(section):
    assert get_args(SECTIONS[section].model_fields["criterion"].annotation) == tuple(CHOICES[section])


@pytest.mark.parametrize("folder", [criteria.layers, criteria.neurons, criteria.experts])
def test_every_file_is_a_criterion_of_its_name(folder):
    found = {"layers": LAYERS, "neurons": NEURONS, "experts": EXPERTS}[folder.__name__.rpartition(".")[2]]
    files = [path.stem for path in sorted(Path(folder.__file__).parent.glob("*.py")) if path.stem != "__init__"]
    assert [name.replace("-", "_") for name in found] == files


@pytest.mark.parametrize(("section", "name"), EVERY)
def test_a_description_says_all_and_can_be_printed(section, name):
    criterion = CHOICES[section][name]
    assert criterion.name == name
    for text in (criterion.summary, criterion.formula, criterion.source, *criterion.parameters.values()):
        assert text and text.isascii() and "\n" not in text and not text.endswith("."), text
    settings, folder = PrunerSettings().model_dump(), {"ffn": "neurons"}.get(section, section)
    own = sys.modules[f"{criteria.__name__}.{folder}.{name.replace('-', '_')}"]
    constants = {constant.lower(): 0 for constant in {**vars(criteria_base), **vars(own)}}
    for parameter in criterion.parameters:
        *inside, field = parameter.split(".")
        known = settings[inside[0]] if inside else {**settings, **constants}
        assert field in known, f"{name} has no parameter {parameter}"


# --- a formula is what is computed

NEURON_COUNT, HIDDEN, TOKENS = 12, 5, 60


@pytest.fixture
def tokens():
    """Activations x, their weights c, dense output weights and incoming matrices, in float64."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(TOKENS, NEURON_COUNT, generator=generator) @ torch.randn(
        NEURON_COUNT, NEURON_COUNT, generator=generator
    )
    c = torch.rand(TOKENS, generator=generator) + 0.1
    w = torch.randn(HIDDEN, NEURON_COUNT, generator=generator)
    incoming = [torch.randn(NEURON_COUNT, HIDDEN, generator=generator) for _ in range(2)]
    return x.double(), c.double(), w.double(), incoming


def scored_obs(x, c, w, left):
    h = sum(c[t] * torch.outer(x[t, left], x[t, left]) for t in range(TOKENS))
    pull = 0.03 * sum((c[t] * x[t].square()).mean() for t in range(TOKENS))
    h = h + pull * torch.eye(len(left), dtype=h.dtype)
    towards = sum(c[t] * torch.outer(w @ x[t], x[t, left]) for t in range(TOKENS)) + pull * w[:, left]
    refitted = towards @ torch.linalg.inv(h)
    return refitted.square().sum(dim=0) / torch.linalg.inv(h).diagonal()


def lowest_go(scores, width):
    return sorted(scores.argsort(descending=True)[:width].tolist())


def selected(name, tokens, width, seed=0):
    x, c, w, incoming = tokens
    statistics = NeuronStatistics(w, incoming)
    statistics.add(x, x @ w.T, c, torch.arange(len(c)) % 2)
    kept = NEURONS[name].select(statistics, [width], torch.Generator().manual_seed(seed))[width]
    return kept.tolist()


def test_neurons_go_by_the_formulas(tokens):
    x, c, w, incoming = tokens
    left = list(range(NEURON_COUNT))
    energy = torch.stack([(c * x[:, k].square()).sum() * w[:, k].square().sum() for k in left])
    largest = torch.stack([sum(matrix[k].abs().max() for matrix in incoming) for k in left])
    permutation = torch.randperm(NEURON_COUNT, generator=torch.Generator().manual_seed(7))
    expected = {
        "energy": energy,
        "energy-refit": energy,
        "max-abs-weight": largest,
        "first": -torch.arange(NEURON_COUNT),
        "random": -permutation.argsort(),
    }
    assert set(expected) | {"obs"} == set(NEURONS)
    assert NEURON_COUNT < BLOCKS  # so that one neuron goes at a time
    while len(left) > 4:
        del left[int(scored_obs(x, c, w, left).argmin())]
        assert selected("obs", tokens, len(left)) == left
        for name, scores in expected.items():
            assert selected(name, tokens, len(left), seed=7) == lowest_go(scores, len(left)), name


def test_neurons_without_a_score_are_not_ranked():
    def selected_by(*scores):
        kept = by_score(lambda statistics, _: torch.tensor(scores))(None, [2, 1], None)
        return {width: which.tolist() for width, which in kept.items()}

    assert selected_by(1.0, torch.inf, -torch.inf) == {2: [0, 1], 1: [1]}
    with pytest.raises(FlabError, match="1 of 3 neurons"):
        selected_by(1.0, torch.nan, 2.0)


@pytest.mark.parametrize("criterion", NEURONS.values(), ids=lambda criterion: criterion.name)
def test_neurons_are_chosen_by_what_all_processes_saw(criterion, tokens):
    """A sum that is not among `NeuronStatistics.totals` would be that of one process."""
    x, c, w, incoming = tokens
    parts = []
    for rows in torch.arange(TOKENS).split([6, TOKENS - 6]):
        parts.append(NeuronStatistics(w, incoming))
        parts[-1].add(x[rows], x[rows] @ w.T, c[rows], rows % 2)
    for total, other in zip(*(part.totals for part in parts), strict=True):
        total += other
    for width in range(NEURON_COUNT - 1, 2, -3):
        statistics = NeuronStatistics(w, incoming)
        statistics.add(x, x @ w.T, c, torch.arange(len(c)) % 2)
        alone, together = (
            criterion.select(one, [width], torch.Generator().manual_seed(0))[width].tolist()
            for one in (statistics, parts[0])
        )
        assert alone == together


def documents(packed):
    """The ids of every packed document, alone in a row."""
    for ids, places, mask in zip(packed.input_ids, packed.position_ids, packed.mask, strict=True):
        starts = torch.nonzero(places[mask] == 0).flatten().tolist()
        yield from (document[None] for document in ids[mask].tensor_split(starts[1:]))


def joined(pairs):
    """What several texts are made of, one after the other."""
    return [torch.cat(states) for states in zip(*pairs, strict=True)]


def test_layers_go_by_the_formulas():
    model, packed = tiny_model("qwen2"), random_tokens(documents=8)
    family = family_for(model.config)
    decoder = family.decoder_layers(model)
    seen: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {index: [] for index in range(len(decoder))}

    def watched(index):
        def see(module, args, output):
            after = output[0] if isinstance(output, tuple) else output
            seen[index].append((args[0][0], after[0]))

        return see

    handles = [layer.register_forward_hook(watched(index)) for index, layer in enumerate(decoder)]
    for document in documents(packed):
        model(document)
    for handle in handles:
        handle.remove()
    # x, y of every layer: hidden states before and after it, those of all tokens and of the last of each text
    every = {index: joined(found) for index, found in seen.items()}
    last = {index: joined([(x[-1:], y[-1:]) for x, y in found]) for index, found in seen.items()}
    cosine = torch.nn.CosineSimilarity(dim=-1)
    expected = {
        "block-influence": {index: 1 - cosine(x, y).mean() for index, (x, y) in every.items()},
        "last-token-cosine": {index: 1 - cosine(x, y).mean() for index, (x, y) in last.items()},
    }
    # `divergence` is held against whole forward passes in layers/test_search.py
    assert set(expected) | {"divergence"} == set(LAYERS)
    for name, scores in expected.items():
        order = list(ranked_layers(reading(model, packed), LAYERS[name]))
        assert [removal.layer for removal in order] == sorted(scores, key=scores.get)[: len(decoder) - 1]
        for removal in order:
            assert removal.score == pytest.approx(float(scores[removal.layer]), abs=1e-5)
