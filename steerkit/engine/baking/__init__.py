"""Folds put into a model for good, and the model written as an ordinary checkpoint that has to be read back as it is.

Elsewhere a fold lasts for a block. Here the parameters stay, and the config declares whatever a reader of the
checkpoint would otherwise drop: a head that is no longer tied to the embedding, and biases where there were none.
"""
