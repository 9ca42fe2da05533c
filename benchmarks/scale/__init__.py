"""Memory and speed against the number of parameters: simulated from shapes, and measured where it fits."""
