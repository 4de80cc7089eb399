"""The TFTP service and its worker processes."""
