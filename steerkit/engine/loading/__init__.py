"""A transformers model and its tokenizer in memory: from a hub id, a folder, a GGUF file or a bundled alias, or taken
over from whoever has loaded them, out of wrappers; with a hash of the weights, remembered on disk. May import `tiny`;
knows nothing of sites or steering."""
