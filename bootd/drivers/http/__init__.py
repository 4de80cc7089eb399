"""The HTTP services: nodes, operators, large files."""
