"""Sending files, sans-IO: the TFTP machine, and HTTP's ranges."""
