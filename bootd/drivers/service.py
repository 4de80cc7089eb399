"""What the daemon runs: everything that owns a socket is bound first and served afterwards."""

from typing import Protocol


class Service(Protocol):
    """One listener or supervisor of the daemon. The daemon calls bind() of all, then serve() of all."""

    name: str

    async def bind(self) -> None:
        """Acquire sockets and files. Raises `bootd.errors.OperatorError` that says what to do."""

    async def serve(self) -> None:
        """Run until cancelled. An exception that leaves here ends the daemon, so only a bug may."""

    async def close(self) -> None:
        """Release what bind() acquired; safe to call twice."""
