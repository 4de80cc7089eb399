"""Images of other programs: what their files mean. Bytes in, values out; the files themselves are the drivers'."""
