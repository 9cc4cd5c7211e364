"""Paths as users write them."""

from pathlib import Path

import pytest

from optimum_flab.utils.errors import ConfigurationError
from optimum_flab.utils.places import user_path


def test_the_home_folder_stands_for_a_tilde():
    assert user_path("~/model") == Path.home() / "model"


@pytest.mark.parametrize(("path", "match"), [("", "empty path"), ("~nobody-of-this-name/x", "not known here")])
def test_what_names_no_place_is_refused(path, match):
    with pytest.raises(ConfigurationError, match=match):
        user_path(path)
