"""A program on a model, and off it without a trace: hooks made of steps, parameters swapped for folded ones, places
prepared ahead, modules that torch.compile has seen, gradients that are computed again. May import `lowering`,
`sequence` and `sites`."""
