"""Long work that operators order: each a process of its own, followed by its id."""
