"""A plugin of every kind, small and whole: copy the one that you need (``steerkit new-plugin``)."""
