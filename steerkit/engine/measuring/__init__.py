"""Evaluators under conditions: jobs (an evaluator on a data set) and members (a condition, and each of its controls)
that share passes, what members write, the scores of prompts, completions and texts, questions to whoever judges,
scores to values with intervals, how far classes are apart by layer. May import `reading` and below."""
