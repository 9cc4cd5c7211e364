"""Paths as users write them."""

from pathlib import Path

import pytest

from optimum_flab.utils.errors import ConfigurationError
from optimum_flab.utils.places import hub_id, user_path


def test_the_home_folder_stands_for_a_tilde():
    assert user_path("~/model") == Path.home() / "model"


@pytest.mark.parametrize(
    ("path", "match"),
    [("", "empty path"), ("~nobody-of-this-name/x", "not known here"), ("a\0b", "null"), ("a" * 5000, "too long")],
)
def test_what_names_no_place_is_refused(path, match):
    with pytest.raises(ConfigurationError, match=match):
        user_path(path)


def test_links_that_lead_to_each_other_are_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for path in (tmp_path / "a", tmp_path / "a" / "out"):
        with pytest.raises(ConfigurationError, match="cannot be a path"):
            user_path(path)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("https://huggingface.co/org/name", "org/name"),
        (" https://huggingface.co/org/name/tree/main ", "org/name"),
        ("http://hf.co/org/name/", "org/name"),
        ("org/name", "org/name"),
        ("https://huggingface.co/org/name/tree/other", "https://huggingface.co/org/name/tree/other"),
        ("https://huggingface.co/datasets/org/name", "https://huggingface.co/datasets/org/name"),
        ("some folder/", "some folder/"),
    ],
)
def test_the_page_of_a_repository_stands_for_its_id(name, found):
    assert hub_id(name) == found
