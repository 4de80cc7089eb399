"""Images on disk: the store, and what works on it."""
