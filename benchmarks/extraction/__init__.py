"""Cost of capture against the best loop that a person would write by hand."""
