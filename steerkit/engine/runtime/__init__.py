"""A model that serves requests one after the other: whose turn it is, who steers which pass and row, forward, the
common beginning of a batch that is read once, rows that leave it, generation and sampling, passes inside of passes.
May import every room below `reading`."""
