"""Settings files that come with the package: each can be read, listed, printed and asked for by its name."""

from __future__ import annotations

import re

import pytest
import yaml

from optimum_flab import ConfigurationError, FlabPrunerConfig
from optimum_flab.settings.files import Settings, read_settings_file
from optimum_flab.settings.recipes import FOLDER, first_comment, read_recipe, recipe_files, settings_path
from optimum_flab.settings.section import sections_in

from ..conftest import flab


NAMES = list(recipe_files())


def uncommented(text: str) -> str:
    """A recipe with the settings that it leaves to its reader, which stand behind a `#`."""
    return re.sub(r"^( *)# ( *(?:- |\w+:).*)$", r"\1\2", text, flags=re.M)


def test_every_file_of_the_folder_is_a_recipe_with_a_name_for_the_command_line():
    assert sorted(path.name for path in FOLDER.iterdir()) == [f"{name}.yaml" for name in NAMES]
    assert all(name.replace("-", "").isalpha() and name.islower() for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_and_what_it_leaves_to_its_reader_are_settings(name):
    Settings(**read_settings_file(name))
    for section, value in yaml.safe_load(uncommented(read_recipe(name))).items():
        kind = sections_in(Settings).get(section)
        assert value or kind is None, f"{section} says nothing"
        _ = Settings(**{section: value}) if kind is None else kind(**value)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_is_for_how_it_is_called_and_what_each_line_does(name):
    text = read_recipe(name)
    summary = first_comment(text)
    assert text.startswith("# ") and summary.endswith(".") and len(summary) <= 90
    assert f"-c {name}" in text
    assert max(map(len, text.splitlines())) <= 119
    # a value speaks for itself only where its section was explained
    settings = [line for line in text.splitlines() if line.startswith(("  ", "target_ratio"))]
    assert sum("#" in line for line in settings) >= 0.8 * len(settings)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_needs_no_files_of_its_reader(name):
    config = FlabPrunerConfig.from_yaml(name)
    packaged = {"python-stdlib", "python-packages", "packaged-problems"}
    assert {*config.data.sources, *config.data.counts, *config.recovery.sources} <= packaged


def test_a_recipe_is_read_wherever_a_settings_file_is():
    assert FlabPrunerConfig.from_yaml("laptop").recovery.trains
    assert Settings(**read_settings_file("code-completion")).export.type == "q8_0"


def test_a_file_wins_over_the_recipe_of_its_name_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "laptop").mkdir()
    assert settings_path("laptop") == recipe_files()["laptop"]
    (tmp_path / "laptop").rmdir()
    (tmp_path / "laptop").write_text("target_ratio: 0.1", encoding="utf-8")
    assert FlabPrunerConfig.from_yaml("laptop").target_ratio == 0.1
    assert settings_path("other.yaml").as_posix() == "other.yaml"


def test_an_unknown_name_is_answered_with_those_that_there_are():
    with pytest.raises(ConfigurationError, match=f"file 'laptpo', and no recipe; recipes: {', '.join(NAMES)}$"):
        FlabPrunerConfig.from_yaml("laptpo")


def test_the_verb_lists_recipes_and_prints_one():
    listed = flab("recipes").out.splitlines()
    assert [line.split(maxsplit=1) for line in listed] == [[name, first_comment(read_recipe(name))] for name in NAMES]
    assert flab("recipes", "laptop") == (0, recipe_files()["laptop"].read_text(encoding="utf-8"), "")
