"""Which tokens a pass holds and how much of an update each gets: frames, positions, gates, a tally of what is edited,
what is remembered of a sequence by its cache. Imports no other room."""
