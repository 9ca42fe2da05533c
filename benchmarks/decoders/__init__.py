"""Every causal model type of transformers: what its layout is, what it leaves out, which promises hold on it."""
