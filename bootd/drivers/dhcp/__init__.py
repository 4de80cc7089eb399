"""The DHCP service: sockets, leases on disk, probes, other servers on the link."""
