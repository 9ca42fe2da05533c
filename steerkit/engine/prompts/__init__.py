"""From examples to token ids: chat templates with the spans of roles and turns, padded batches, the vocabulary as
evaluators see it. May import `sequence`."""
