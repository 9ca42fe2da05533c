"""Passes that read: activations at sites, next-token logits, logits along texts. May import `runtime` and below."""
