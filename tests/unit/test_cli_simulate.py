"""``bootd simulate``: the table, the JSON, and what it says about a configuration that cannot work."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bootd.cli.main import cli
from bootd.errors import OperatorError

BUILT = ("lpxelinux.0", "ldlinux.c32", "ipxe.efi", "stage1/uki-x64.efi")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    for name in BUILT:
        path = tmp_path / "boot" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"loader")
    path = tmp_path / "bootd.toml"
    path.write_text(f'[server]\naddress = "192.0.2.9"\nboot_dir = "{tmp_path}/boot"\n')
    return path


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, ["simulate", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def found(*arguments: str) -> dict[str, Any]:
    value = json.loads(run(*arguments, "--json"))
    return {row["client"]: row for row in value["clients"]} | {"mode": value["mode"]}


def test_what_is_built_is_fetched_and_what_is_not_is_named(settings: Path) -> None:
    clients = found(str(settings))
    assert clients["mode"] == "proxied"
    assert clients["UEFI x64 (EDK2)"]["proxied"]["url"] == "tftp://192.0.2.9/ipxe.efi"
    assert clients["HTTP Boot x64 (EDK2)"]["full"]["url"] == "http://192.0.2.9:7468/stage1/uki-x64.efi"
    arm = clients["UEFI ARM 64 (EDK2)"]["full"]
    assert arm["ending"] == "fails"
    assert "ipxe-arm64.efi is missing in the boot folder" in arm["refusals"][0]
    assert "ipxe-arm64.efi is missing" in run(str(settings))


def test_a_file_that_appears_is_served(settings: Path) -> None:
    (settings.parent / "boot/grubriscv64.efi").write_bytes(b"loader")
    assert found(str(settings))["UEFI RISC-V 64 (EDK2)"]["full"]["url"] == "tftp://192.0.2.9/grubriscv64.efi"
    assert found(str(settings), "--assume-built")["UEFI ARM 32 (EDK2)"]["full"]["ending"] == "fetches"


def test_steps_show_who_says_what(settings: Path) -> None:
    text = run(str(settings), "--client", "UEFI x64 (EDK2)", "--steps")
    for line in (
        "DISCOVER to everybody:67",
        "OFFER from 192.0.2.1:67, address 192.0.2.100",
        "OFFER from 192.0.2.9:67, PXEClient, file ipxe.efi",
        "REQUEST to 192.0.2.9:4011",
        "ACK from 192.0.2.9:4011, PXEClient, file ipxe.efi",
    ):
        assert line in text
    assert "BIOS" not in text


def test_the_other_servers_own_boot_file(settings: Path) -> None:
    clients = found(str(settings), "--their-file", "x.efi", "--their-next-server", "192.0.2.1")
    assert clients["UEFI x64 (EDK2)"]["proxied"]["url"] == "tftp://192.0.2.9/ipxe.efi"
    assert clients["iPXE on UEFI x64"]["proxied"]["url"] == "tftp://192.0.2.1/x.efi"
    assert clients["iPXE on UEFI x64"]["full"]["url"].startswith("http://192.0.2.9:7467/boot/boot.ipxe")


def test_grub_takes_its_next_server_from_the_address_server(settings: Path) -> None:
    """docs/booting.md, "Secure Boot": under a proxy it comes up only when the other server names us."""
    for name in ("shimx64.efi", "grubx64.efi"):
        (settings.parent / "boot" / name).write_bytes(b"loader")
    settings.write_text(settings.read_text() + "[boot]\nsecure_boot = true\n")
    for words, ending in (
        ((), "fails"),
        (("--their-next-server", "192.0.2.1"), "fails"),
        (("--their-next-server", "192.0.2.9"), "fetches"),
    ):
        client = found(str(settings), *words)["UEFI x64 (EDK2)"]
        assert client["proxied"]["url"] == "tftp://192.0.2.9/shimx64.efi"
        assert client["proxied"]["ending"] == ending
        assert client["full"]["ending"] == "fetches"
    assert "GRUB stands at its prompt" in run(str(settings))


def test_pools_and_menu_of_the_settings_count(settings: Path) -> None:
    settings.write_text(
        settings.read_text()
        + '[dhcp]\nproxy = false\n[[dhcp.pool]]\nsubnet = "192.0.2.0/24"\nrange = "192.0.2.50-192.0.2.60"\n'
        + '[menu]\nseconds = 9\n[[menu.item]]\ntitle = "Clone"\n[[menu.item]]\ntitle = "Disk"\nlocal = true\n'
    )
    clients = found(str(settings))
    assert clients["mode"] == "full"
    full = clients["BIOS ROM (Intel)"]["full"]
    assert "address 192.0.2.50" in full["steps"][0]["answers"][0]
    assert full["notes"][0] == "shows its prompt for 9 s"


def test_wrong_words_are_refused(settings: Path) -> None:
    for arguments in (["--client", "Amiga"], ["--their-next-server", "nowhere"]):
        done = CliRunner().invoke(cli, ["simulate", str(settings), *arguments])
        assert isinstance(done.exception, OperatorError), done.output
        assert done.exception.hint
