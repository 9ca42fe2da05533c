"""YAML to a frozen, validated ``Recipe``: all problems at once, with line numbers. Imports no torch."""

from steerkit.recipe.data import DataRef
from steerkit.recipe.schema import Recipe
from steerkit.recipe.shipped import find_recipe, shipped_recipes

__all__ = ["DataRef", "Recipe", "find_recipe", "shipped_recipes"]
