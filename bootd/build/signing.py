"""Signing the kernel image with an operator's own key, for Secure Boot over HTTP where that key is enrolled."""

from collections.abc import Callable
from pathlib import Path

from bootd.build.cache import install
from bootd.build.debian import run
from bootd.errors import Exit, OperatorError

IMAGE = "stage1/uki-x64.efi"
SIGNED = "stage1/uki-x64.signed.efi"


def sign(out: Path, key: Path, certificate: Path, progress: Callable[[str], None]) -> None:
    """Write ``out/stage1/uki-x64.signed.efi``: the image with a signature that ``certificate`` verifies.

    ``key`` and ``certificate`` are PEM files, the key without a pass phrase. `OperatorError` when sbsign is missing
    or the two do not belong together.
    """
    for path in (key, certificate):
        if not path.is_file():
            raise OperatorError(f"{path} is not a file", "name the key and its certificate, both PEM", Exit.INPUT)
    work = out / f"{SIGNED}.new"
    try:
        run(
            ["sbsign", "--key", str(key), "--cert", str(certificate), "--output", str(work), str(out / IMAGE)],
            package="sbsigntool",
        )
        run(["sbverify", "--cert", str(certificate), str(work)], package="sbsigntool")
        install(work, out / SIGNED)
    finally:
        work.unlink(missing_ok=True)
    progress(f"stage1: {SIGNED} is signed with {key.name}")


def leave_out(out: Path, progress: Callable[[str], None]) -> None:
    """Without a key: an image that was signed before this build is another stage1, so it goes."""
    if (out / SIGNED).exists():
        (out / SIGNED).unlink()
        progress(
            f"stage1: {SIGNED} was of an earlier build and is removed; sign again with --key and --certificate"
        )
