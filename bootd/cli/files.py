"""Options of ``bootd deploy`` for images of files: layout, what stays empty, boot loader, scripts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from bootd.errors import Exit, OperatorError

Function = TypeVar("Function", bound=Callable[..., Any])
SOURCE = "@source"
MAX_HOOK = 256 << 10  # bytes
BOOT_CODE = 446  # bytes of a boot sector before its table, as ka-d.sh -M takes them
_NAMES = ("layout", "exclude", "protect", "boot_loader", "modules", "skip", "boot_sector", "hooks", "erase")
_options = (
    click.option("--layout", default="", help="Of files: desc or TOML file of the new disk, or @source."),
    click.option("--exclude", "-x", multiple=True, metavar="DIR", help="Of files: this folder (/tmp) stays empty."),
    click.option(
        "--protect-disk", "-X", "protect", multiple=True, metavar="ID", help="Never this serial, WWN or name."
    ),
    click.option("--boot-loader", "-r", type=click.Choice(["grub", "none"]), default="grub", show_default=True),
    click.option("--with", "modules", multiple=True, metavar="MODULE", help="Of files: also in the initramfs."),
    click.option("--skip", multiple=True, metavar="STEP", help="Of files: leave out this step of customise."),
    click.option(
        "--boot-sector",
        "-M",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Of files: 446 bytes for the boot sector; then no boot loader is installed.",
    ),
    click.option(
        "--hooks",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Of files: scripts to run in the new system, in the order of their names.",
    ),
    click.option("--erase", multiple=True, metavar="SERIAL", help="Of files: erase this disk though not empty."),
)


def files_options(function: Function) -> Function:
    """All of them, in `files_body` afterwards."""
    for option in reversed(_options):
        function = option(function)
    return function


def files_body(options: dict[str, Any]) -> dict[str, Any]:
    """What the options of `files_options` add to an order. They are taken out of ``options``."""
    said = {name: options.pop(name) for name in _NAMES}
    layout = said["layout"]
    if not layout:
        extra = [name for name in _NAMES if said[name] and name not in ("layout", "boot_loader")]
        if extra or said["boot_loader"] != "grub":
            word = extra[0].replace("_", "-") if extra else "boot-loader"
            raise OperatorError(f"--{word} is for images of files", "say --layout FILE too", Exit.USAGE)
        return {}
    return {
        "scheme": SOURCE if layout == SOURCE else _read(Path(layout)),
        "scheme_name": layout,
        "exclude": said["exclude"],
        "protect": said["protect"],
        "loader": "none" if said["boot_sector"] else said["boot_loader"],
        "modules": said["modules"],
        "skip": said["skip"],
        "boot_code": _read_boot_code(said["boot_sector"]),
        "hooks": _read_hooks(said["hooks"]),
        "erases": said["erase"],
    }


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text"
        raise OperatorError(
            f"{path}: {reason}", "name a layout: bootd layout from-disk makes one", Exit.INPUT
        ) from None


def _read_boot_code(path: Path | None) -> str:
    if path is None:
        return ""
    data = path.read_bytes()
    if len(data) != BOOT_CODE:
        text = f"{path}: {len(data)} bytes, boot code has {BOOT_CODE}"
        raise OperatorError(text, f"dd if=DISK of={path} bs={BOOT_CODE} count=1", Exit.INPUT)
    return data.hex()


def _read_hooks(folder: Path | None) -> list[tuple[str, str]]:
    found = []
    for path in sorted(folder.iterdir()) if folder is not None else ():
        if path.is_file() and path.stat().st_mode & 0o100:
            if path.stat().st_size > MAX_HOOK:
                raise OperatorError(f"{path}: larger than {MAX_HOOK} bytes", "fetch the rest from it", Exit.INPUT)
            found.append((path.name, _read(path)))
    return found
