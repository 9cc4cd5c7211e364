"""Paths as users write them."""

from pathlib import Path

import pytest

from optimum_flab.utils.errors import ConfigurationError
from optimum_flab.utils.places import user_path


def test_the_home_folder_stands_for_a_tilde():
    assert user_path("~/model") == Path.home() / "model"


def test_what_names_no_place_is_refused():
    with pytest.raises(ConfigurationError, match="empty path"):
        user_path("")
