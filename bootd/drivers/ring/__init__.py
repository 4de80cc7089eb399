"""The ring by hand: `bootd ring send` and `receive`, without the daemon."""
