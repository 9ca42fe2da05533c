"""YAML to a frozen, validated ``Recipe``: all problems at once, with line numbers. Imports no torch."""

from steerkit.recipe.data import DataRef
from steerkit.recipe.draft import Draft
from steerkit.recipe.load import draft_recipe, load_recipe, recipe_from_mapping
from steerkit.recipe.schema import Recipe
from steerkit.recipe.shipped import find_recipe, shipped_recipes

__all__ = [
    "DataRef",
    "Draft",
    "Recipe",
    "draft_recipe",
    "find_recipe",
    "load_recipe",
    "recipe_from_mapping",
    "shipped_recipes",
]
