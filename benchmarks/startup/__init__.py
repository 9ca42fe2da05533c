"""How long a person waits before anything happens."""
