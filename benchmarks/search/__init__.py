"""What a search over candidates costs against the literal protocol."""
