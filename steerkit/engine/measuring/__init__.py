"""Evaluators under conditions: jobs that share passes, scores of prompts, completions and texts, questions to whoever
judges, scores to values with intervals, how far classes are apart by layer. May import `reading` and below."""
