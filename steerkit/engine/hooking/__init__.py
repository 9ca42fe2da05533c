"""A program on a model, and off it without a trace: hooks built from steps, swapped parameters, compiled models and
prepared places. May import `lowering`, `sequence` and `sites`."""
