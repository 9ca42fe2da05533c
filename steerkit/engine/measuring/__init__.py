"""Evaluators under conditions: shared passes to scores, questions to whoever judges, scores to values with intervals,
classes apart by layer. May import `reading` and below."""
