"""`bootd doctor`: the network from the outside."""
