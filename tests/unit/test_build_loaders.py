"""Boot loaders: the record of where they come from, and the script that starts a local disk."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from bootd.build import foreign, loaders, local_loader, provenance
from bootd.build.bundle import source_root
from bootd.build.cache import Cache
from bootd.build.debian import Package, file_of
from bootd.errors import Exit, OperatorError

CONTENT = b"MZ a loader"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
LINE = f"""
[[loader]]
name = "x.efi"
package = "xloader"
file = "usr/lib/x.efi"
[loader.sha256]
"1.0-1" = "{DIGEST}"
"""


def loader_file(folder: Path, content: bytes = CONTENT) -> Path:
    path = folder / "usr/lib/x.efi"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_a_known_version_with_its_digest_is_taken(tmp_path: Path) -> None:
    (line,) = provenance.parse(LINE)
    taken = provenance.check(line, "1.0-1", loader_file(tmp_path))
    assert (taken.sha256, taken.known) == (DIGEST, True)


def test_a_changed_file_of_a_known_version_is_refused(tmp_path: Path) -> None:
    (line,) = provenance.parse(LINE)
    with pytest.raises(OperatorError, match=r"xloader 1\.0-1 has the SHA-256") as caught:
        provenance.check(line, "1.0-1", loader_file(tmp_path, CONTENT + b"\0"))
    assert caught.value.code is Exit.REFUSED


def test_a_newer_version_is_taken_and_told(tmp_path: Path) -> None:
    (line,) = provenance.parse(LINE)
    assert not provenance.check(line, "1.0-2", loader_file(tmp_path, b"newer")).known


def test_a_file_that_its_package_lacks_is_an_error(tmp_path: Path) -> None:
    (line,) = provenance.parse(LINE)
    with pytest.raises(OperatorError, match=r"has no file usr/lib/x\.efi"):
        provenance.check(line, "1.0-1", tmp_path / "usr/lib/x.efi")


@pytest.mark.parametrize(
    "text", ["", "loader = 1", LINE.replace("package", "packet"), LINE.replace(DIGEST, "abc"), LINE + "]"]
)
def test_a_malformed_record_is_an_operator_error(text: str) -> None:
    with pytest.raises(OperatorError, match=re.escape(provenance.RECORD)):
        provenance.parse(text)


def test_the_record_names_each_loader_once_and_completely() -> None:
    record = provenance.read()
    names = [loader.name for loader in record]
    assert len(set(names)) == len(names)
    assert {"lpxelinux.0", "ldlinux.c32", "undionly.kpxe", "ipxe.efi", "snponly.efi"} <= set(names)
    assert {"shimx64.efi", "mmx64.efi", "grubx64.efi", "grubaa64.efi", "linuxx64.efi.stub"} <= set(names)
    readme = (source_root() / "pxelinux/README.md").read_text()
    for loader in record:
        assert not loader.file.startswith("/")
        assert f"`{loader.name}`" in readme, f"pxelinux/README.md does not tell {loader.name}"


def test_version_comes_from_the_name_of_the_package_file() -> None:
    """apt gave Debian 12's pxelinux this name; ``dpkg-deb -f`` says its version."""
    name = "pxelinux_3%3a6.04~git20190206.bf6db5b4+dfsg1-3_all.deb"
    assert Package("pxelinux", name, 1, "").version == "3:6.04~git20190206.bf6db5b4+dfsg1-3"


def test_foreign_packages_leave_this_machines_apt_alone(tmp_path: Path) -> None:
    """apt itself says which folders it would use."""
    command = ["apt-config", *foreign.options("arm64", tmp_path), "dump"]
    try:
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError:
        pytest.skip("apt-config is not installed (apt)")
    assert 'APT::Architecture "arm64";' in said
    assert f'Dir::State::lists "{tmp_path}/lists";' in said
    assert f'Dir::State::status "{tmp_path}/status";' in said


def test_script_of_the_local_loader_is_valid_grub() -> None:
    script = local_loader.script()
    try:
        subprocess.run(["grub-script-check"], input=script.encode(), check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("grub-script-check is not installed (grub-common)")
    assert all(path in script for path in local_loader.LOCAL_LOADERS)


def test_a_mirror_without_the_other_architecture_costs_its_loaders_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """apt's sources are empty here: the real apt says that there is nothing, and nothing of ours is lost."""
    said: list[str] = []
    (tmp_path / "sources").mkdir()
    original = foreign.options
    nowhere = ("-o", f"Dir::Etc::sourceparts={tmp_path}/sources", "-o", "Dir::Etc::sourcelist=/dev/null")
    monkeypatch.setattr(foreign, "options", lambda name, folder: (*original(name, folder), *nowhere))
    foreigners = tuple(loader for loader in provenance.read() if loader.architecture)
    monkeypatch.setattr(provenance, "read", lambda: foreigners)
    assert loaders.take(Cache(tmp_path / "cache"), said.append) == []
    assert len(said) == 1
    assert "none for arm64: the package sources of this machine have no arm64 packages" in said[0]


def test_links_of_a_package_lead_into_the_package(tmp_path: Path) -> None:
    """Debian's ipxe.efi is a link to /boot/ipxe.efi: that of the package, whether this machine has one or not."""
    (tmp_path / "usr/lib/ipxe").mkdir(parents=True)
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/ipxe.efi").write_text("of the package")
    (tmp_path / "usr/lib/ipxe/ipxe.efi").symlink_to("/boot/ipxe.efi")
    (tmp_path / "usr/lib/ipxe/again.efi").symlink_to("ipxe.efi")
    (tmp_path / "usr/lib/ipxe/endless").symlink_to("endless")
    for name in ("boot/ipxe.efi", "usr/lib/ipxe/ipxe.efi", "usr/lib/ipxe/again.efi"):
        assert file_of(tmp_path, name) == tmp_path / "boot/ipxe.efi"
    assert not file_of(tmp_path, "usr/lib/ipxe/missing.efi").exists()
    assert file_of(tmp_path, "usr/lib/ipxe/endless").is_symlink()
