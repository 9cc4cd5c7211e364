"""The cards in `model_cards/`, which are made from records of real runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hub.card_rules import card_errors
from huggingface_hub import ModelCard

from optimum_flab.hub.card import TEMPLATE
from optimum_flab.hub.frame import is_generated


FOLDER = Path(__file__).parents[2] / "model_cards"
CARDS = sorted(FOLDER.glob("*/README.md"))


def test_the_template_is_the_one_that_is_used():
    assert (FOLDER / "card.md.jinja").read_bytes() == TEMPLATE.read_bytes()
    assert len(CARDS) >= 2


@pytest.mark.parametrize("path", CARDS, ids=lambda path: path.parent.name)
def test_a_published_card_is_as_it_was_written(path):
    content = path.read_text(encoding="utf-8")
    assert is_generated(content) and card_errors(content) == []
    assert "None" not in content and not re.search(r"(?<![\w.:/])/(root|home|work|tmp)/", content)
    links = re.findall(r"\]\(([^)]+)\)", ModelCard.load(path).text)
    assert links and all(link.startswith("https://") for link in links)  # no other file is here
