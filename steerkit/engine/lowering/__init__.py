"""From interventions to the cheapest equal program: edits, algebra, redundancy, folding into parameters, and what
became of each update in words. May import `sequence` and `sites`; puts nothing on a model."""
