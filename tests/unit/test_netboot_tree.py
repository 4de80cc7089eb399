"""The virtual tree: what is rendered, what is a file, and that no path leads out."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootd.drivers.tree import File, NotFound, Rendered, VirtualTree
from bootd.netboot.labels import BUILT_IN
from bootd.netboot.render import RenderContext

MAC = "52:54:00:12:34:56"
LABELS = {label.name: label for label in BUILT_IN}


def known(mac: str) -> RenderContext | None:
    """A daemon that knows machines of one vendor."""
    if not mac.startswith("52:54:00"):
        return None
    return RenderContext("10.9.0.2", 7467, 7468, LABELS, "kamethod", mac, "ab" * 16)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("tree")
    boot = base / "boot"
    (boot / "stage1").mkdir(parents=True)
    (boot / "stage1/vmlinuz").write_bytes(b"kernel")
    (boot / "lpxelinux.0").write_bytes(b"loader")
    (boot / "inside").symlink_to("lpxelinux.0")
    (boot / "outside").symlink_to(base / "secret")
    (boot / "loop").symlink_to("loop")
    (boot / "up").symlink_to("..")
    os.mkfifo(boot / "pipe")
    (base / "secret").write_bytes(b"secret")
    (base / "boot-other").mkdir()
    (base / "boot-other/file").write_bytes(b"secret")
    return boot


def tree(root: Path) -> VirtualTree:
    return VirtualTree(root, known, "10.9.0.2", 7467)


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("lpxelinux.0", "lpxelinux.0"),
        ("/lpxelinux.0", "lpxelinux.0"),
        ("///lpxelinux.0", "lpxelinux.0"),
        ("./lpxelinux.0", "lpxelinux.0"),
        ("\\stage1\\vmlinuz", "stage1/vmlinuz"),
        ("/stage1//vmlinuz", "stage1/vmlinuz"),
        ("inside", "lpxelinux.0"),
    ],
)
def test_files(root: Path, path: str, file: str) -> None:
    assert tree(root).resolve(path) == File(root.resolve() / file, 6)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "/",
            ".",
            "..",
            "../secret",
            "/../secret",
            "stage1/../../secret",
            "..\\secret",
            "stage1\\..\\..\\secret",
        ),
        *("outside", "up/secret", "loop", "pipe", "stage1", "nosuch", "lpxelinux.0/x", "../boot-other/file"),
        *("a\0b", "a\nb", "\xe4", "x" * 600, "~", "%2e%2e/secret", "stage1/" * 100),
    ],
)
def test_nothing_leads_out(root: Path, path: str) -> None:
    assert isinstance(tree(root).resolve(path), NotFound)


@pytest.mark.parametrize(
    ("path", "mac", "start"),
    [
        ("pxelinux.cfg/01-52-54-00-12-34-56", "", b"# Written by bootd for this node.\nDEFAULT kamethod"),
        ("/pxelinux.cfg/01-52-54-00-12-34-56", "", b"# Written"),
        ("boot.ipxe", MAC, b"#!ipxe"),
        ("boot.ipxe", "52-54-00-12-34-56", b"#!ipxe"),
        ("grub/grub.cfg", MAC, b"# Written"),
        ("grub/grub.cfg-01-52-54-00-12-34-56", "", b"# Written"),
        (f"grub/node-{MAC}.cfg", "", b"# Written"),
    ],
)
def test_configuration_of_a_node(root: Path, path: str, mac: str, start: bytes) -> None:
    answer = tree(root).resolve(path, mac)
    assert isinstance(answer, Rendered)
    assert answer.content.startswith(start)
    assert answer.mac == MAC
    assert f"bootd.node={MAC}".encode() in answer.content
    assert "label kamethod" in answer.what


@pytest.mark.parametrize("path", ["autoexec.ipxe", "/autoexec.ipxe", "grub/grub.cfg"])
def test_configuration_for_all(root: Path, path: str) -> None:
    answer = tree(root).resolve(path)
    assert isinstance(answer, Rendered)
    assert answer.mac == ""
    assert b"token" not in answer.content


@pytest.mark.parametrize(
    ("path", "mac"),
    [
        # in PXELINUX's order: it must get through to the MAC, and past it when the node gets nothing
        ("pxelinux.cfg/03000200-0400-0500-0006-000700080009", ""),
        ("pxelinux.cfg/01-00-11-22-33-44-55", ""),
        ("pxelinux.cfg/0A090063", ""),
        ("pxelinux.cfg/0A09", ""),
        ("pxelinux.cfg/default", ""),
        ("pxelinux.cfg/20-52-54-00-12-34-56", ""),
        ("boot.ipxe", ""),
        ("boot.ipxe", "not a mac"),
        ("boot.ipxe", "00:11:22:33:44:55"),
    ],
)
def test_names_without_a_configuration(root: Path, path: str, mac: str) -> None:
    assert isinstance(tree(root).resolve(path, mac), NotFound)


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from(["..", ".", "", "stage1", "up", "secret", "outside"])).map("/".join)
)
def test_any_path_is_answered_from_inside(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    boot = tmp_path_factory.getbasetemp() / "any"
    if not boot.exists():
        (boot / "stage1").mkdir(parents=True)
        (boot / "up").symlink_to("..")
        (boot.parent / "secret").write_bytes(b"secret")
        (boot / "outside").symlink_to(boot.parent / "secret")
    answer = tree(boot).resolve(path)
    if isinstance(answer, File):
        assert answer.path.is_relative_to(boot.resolve())
