"""Sections of a recipe by subject. ``steerkit.recipe.schema`` has the others, and the recipe that they make."""
