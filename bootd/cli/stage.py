"""``bootd stage``: building what nodes boot."""

import os
from pathlib import Path

import click
from rich.console import Console

import stage1.recipe
import stage2.recipe
from bootd import config
from bootd.build import loaders, signing
from bootd.cli import stage_medium, stage_systems
from bootd.cli.context import json_option, print_json
from bootd.errors import Exit, OperatorError


@click.group()
def stage() -> None:
    """Boot artefacts: kernel, stage1, stage2, boot loaders; and systems to boot in place of stage2."""


for _command in (stage_systems.import_system, stage_systems.list_systems, stage_systems.remove_system):
    stage.add_command(_command)
stage.add_command(stage_medium.medium)


@stage.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where to put them [default: boot_dir of the settings].",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Downloads and finished layers are kept here [default: state_dir/cache of the settings].",
)
@click.option("--config", "path", type=click.Path(path_type=Path, dir_okay=False), help="Settings.")
@click.option(
    "--key", type=click.Path(path_type=Path), help="Sign the kernel image of HTTP Boot with this key (PEM)."
)
@click.option("--certificate", type=click.Path(path_type=Path), help="The key's certificate (PEM).")
@json_option
def build(
    *,
    out: Path | None,
    cache: Path | None,
    path: Path | None,
    key: Path | None,
    certificate: Path | None,
    as_json: bool,
) -> None:
    """Build them all. What has not changed is taken from the cache."""
    settings, _ = config.load(path)
    if (key is None) != (certificate is None):
        raise OperatorError("--key and --certificate go together", "name both, or neither", Exit.USAGE)
    if os.geteuid() != 0:
        raise OperatorError("building the stages needs root", "sudo bootd stage build", Exit.ERROR)
    target = out or settings.boot_dir
    kept = cache or Path(settings.server.state_dir) / "cache"
    console = Console(stderr=True, highlight=False)
    try:
        target.mkdir(parents=True, exist_ok=True)
        kept.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(
            f"{error.filename}: {error.strerror}", "name folders that can be written with --out and --cache"
        ) from None
    with console.status("bootd stage build") as status:

        def progress(text: str) -> None:
            console.print(text)
            status.update(text)

        stage1.recipe.build(target, kept, progress, settings.boot.console)
        if key is not None and certificate is not None:
            signing.sign(target, key, certificate, progress)
        else:
            signing.leave_out(target, progress)
        for build_part in (stage2.recipe.build, loaders.build):
            build_part(target, kept, progress)
    console.print(f"boot artefacts are in {target}")
    if as_json:
        print_json({"boot_dir": str(target)})
