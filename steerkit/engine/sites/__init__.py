"""An adapter's layout on a live model: where values are tapped, passes that are looked at, and the self-test that
holds a layout to its word. May import `loading` for its cache alone."""
