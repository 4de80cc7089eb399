"""``bootd stage medium``: a stick or a rescue partition for machines that cannot boot from the network."""

from pathlib import Path

import click

from bootd import config
from bootd.build import medium as building
from bootd.cli.context import json_option, tell


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--partition", is_flag=True, help="The file system alone, for a partition of its own.")
@click.option("--config", "path", type=click.Path(path_type=Path, dir_okay=False), help="Settings.")
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False), help="As for build.")
@json_option
def medium(file: Path, path: Path | None, cache: Path | None, *, partition: bool, as_json: bool) -> None:
    """Write FILE, a disk image that starts stage1 on BIOS and UEFI without network boot.

    Copied to a USB stick, or with --partition to a partition of a node's own disk, it is the service Linux of the
    node: stage1 asks bootd what to boot, as if the firmware had asked. FILE must not exist yet, so no device is
    ever written.
    """
    settings, _ = config.load(path)
    kept = cache or Path(settings.server.state_dir) / "cache"
    said: list[str] = []
    building.build(settings.boot_dir, file, kept, settings.boot.console, said.append, partition=partition)
    size = file.stat().st_size
    tell(as_json, {"file": str(file), "size": size, "partition": partition}, f"{file}: {size / 1e6:.1f} MB")
