"""`optimum-cli flab recipes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..settings.recipes import first_comment, read_recipe, recipe_files
from . import arguments
from .base import FlabVerb


if TYPE_CHECKING:
    from argparse import ArgumentParser


class RecipesCommand(FlabVerb):
    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        _, optional = arguments.groups(parser)
        optional.add_argument("name", nargs="?", help="recipe to print, as a file to start from (default: list all)")
        parser.epilog = "`-c NAME` of the other verbs uses a recipe as it is; flags take precedence over it."

    def execute(self) -> None:
        if self.args.name is not None:
            print(read_recipe(self.args.name), end="")
            return
        width = max(map(len, recipe_files()))
        for name in recipe_files():
            print(f"{name:{width}}  {first_comment(read_recipe(name))}")
