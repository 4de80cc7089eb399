"""Images to and from registries (OCI Distribution Specification 1.1)."""
