"""Full DHCP mode, sans-IO: which address a client gets, for how long, and who else is on the link."""
