"""DNS for the nodes, sans-IO: the zone, the answers, and how many of them."""
