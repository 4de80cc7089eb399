"""The image repository, sans-IO: what an image is, how it is named, what may be removed."""
