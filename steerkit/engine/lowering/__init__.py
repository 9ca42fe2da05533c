"""From interventions to the cheapest equal program: edits, their algebra, what of them is redundant, what can be folded
into which parameters, what a step costs, and what became of each update in words. May import `sequence` and `sites`;
puts nothing on a model."""
