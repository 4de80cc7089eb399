"""Images of other programs, in and out: the files and the tools (`bootd.images.foreign` knows what they mean)."""
