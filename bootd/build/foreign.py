"""Packages of another architecture, without telling this machine's apt about it.

`dpkg --add-architecture` would change what the operator's next upgrade does. So apt gets lists, status and cache of
its own in the build cache, with the machine's sources and keys.
"""

from pathlib import Path

from bootd.build.cache import Cache, digest_of
from bootd.build.debian import Apt, archive_state, run
from bootd.errors import Exit, OperatorError


def apt_for(architecture: str, cache: Cache) -> Apt:
    """Package lists of ``architecture`` (``arm64``), fetched again when this machine's own have changed.

    `OperatorError` when the machine's mirror does not have that architecture.
    """

    def make(path: Path) -> None:
        (path / "lists/partial").mkdir(parents=True)
        (path / "archives/partial").mkdir(parents=True)
        (path / "status").touch()
        run(["apt-get", *options(architecture, path), "-q", "update"], package="apt")
        if not list((path / "lists").glob(f"*_binary-{architecture}_Packages*")):
            raise OperatorError(
                f"the package sources of this machine have no {architecture} packages",
                "use a mirror that carries them",
                Exit.INPUT,
            )

    entry = cache.get("apt", digest_of(architecture, archive_state()), make)
    return Apt(options(architecture, entry), architecture)


def options(architecture: str, folder: Path) -> tuple[str, ...]:
    """What makes apt look at ``folder`` alone."""
    root = folder.resolve()
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures::": architecture,
        "APT::Sandbox::User": "root",
        "Dir::State::lists": f"{root}/lists",
        "Dir::State::status": f"{root}/status",
        "Dir::Cache": str(root),
    }
    return tuple(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))
