"""From a source (hub id, folder, GGUF file, bundled alias) to a transformers model and its tokenizer in memory,
with a hash of the weights. May import `tiny`; knows nothing of sites or steering."""
