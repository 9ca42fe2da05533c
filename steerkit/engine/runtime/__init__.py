"""A model that serves requests one after the other: forward, generate, steer, by row or as a whole. May import every
room below `reading`."""
