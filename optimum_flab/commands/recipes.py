"""`optimum-cli flab recipes`."""

from __future__ import annotations

from ..settings.recipes import first_comment, read_recipe, recipe_files
from ..utils.compat import ArgumentGroup
from .base import FlabVerb


class RecipesCommand(FlabVerb):
    """List the settings files that come with the package, or print one."""

    EPILOG = "`-c NAME` of the other verbs uses a recipe as it is; flags take precedence over it."

    @staticmethod
    def add_arguments(required: ArgumentGroup, optional: ArgumentGroup) -> None:
        optional.add_argument("name", nargs="?", help="recipe to print, as a file to start from (default: list all)")

    def execute(self) -> None:
        if self.args.name is not None:
            print(read_recipe(self.args.name), end="")
            return
        width = max(map(len, recipe_files()))
        for name in recipe_files():
            print(f"{name:{width}}  {first_comment(read_recipe(name))}")
