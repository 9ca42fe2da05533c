"""Damaged inputs of every kind, drawn by a seed: each is refused in a sentence, in time, and leaves nothing behind."""
