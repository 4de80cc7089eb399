"""Files of nodes kept alike with rsync: which runs there are, and the rsync servers that they talk to."""
