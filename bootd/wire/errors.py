"""The two protocol errors: ours (a bug) and the peer's (drop the link, never the session)."""


class ProtocolError(Exception):
    """Base of both. Nothing else escapes a parser of this package."""


class LocalProtocolError(ProtocolError):
    """We tried to do what the state does not allow: a bug on this side."""


class PeerProtocolError(ProtocolError):
    """The peer sent what the protocol does not allow. The text says what and is fit for a log line."""
