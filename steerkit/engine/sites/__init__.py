"""An adapter's layout on a live model: the module where each site's value is tapped, and the self-test, check by check,
that holds a layout to its word. May import `loading`, for the folder of what is remembered on disk."""
