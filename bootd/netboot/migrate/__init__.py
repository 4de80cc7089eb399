"""Other programs' configuration: read it, or write what they need."""
