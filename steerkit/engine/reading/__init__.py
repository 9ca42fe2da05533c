"""Passes that only look: activations at sites into statistics of a class, the head's logits for the next token or along
texts, monitors' readings, the handle that an estimator gets. May import `runtime` and below."""
