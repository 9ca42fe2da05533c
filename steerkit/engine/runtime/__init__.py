"""A model that serves requests one after the other: whose turn it is, who steers which pass and row, forward,
generation and sampling. May import every room below `reading`."""
