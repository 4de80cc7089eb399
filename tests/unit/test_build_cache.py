"""The build cache, the choice of kernel modules, and archives that foreign programs read."""

import os
import subprocess
import threading
from pathlib import Path

import pytest
import zstandard

from bootd.build import debian, modules
from bootd.build.cache import Cache, digest_of, install, write
from bootd.build.initramfs import Archive, compress
from bootd.errors import OperatorError

# --- cache ----------------------------------------------------------------------------------------------------


def test_made_once_per_key(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path), []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("result")

    first = cache.get("kind", "k1", make)
    assert first.read_text() == "result"
    assert cache.get("kind", "k1", make) == first
    cache.get("kind", "k2", make)
    assert len(made) == 2


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fail(path: Path) -> None:
        path.mkdir()
        (path / "half").write_text("x")
        raise OperatorError("no")

    with pytest.raises(OperatorError):
        cache.get("kind", "k", fail)
    assert [path.name for path in (tmp_path / "kind").iterdir()] == [".lock"]
    assert cache.get("kind", "k", lambda path: path.mkdir()).is_dir()


def test_leftovers_of_a_killed_process_go_away(tmp_path: Path) -> None:
    (tmp_path / "kind/.making-abc").mkdir(parents=True)
    Cache(tmp_path).get("kind", "k", lambda path: path.mkdir())
    assert not (tmp_path / "kind/.making-abc").exists()


def test_two_at_once_make_it_once(tmp_path: Path) -> None:
    made: list[int] = []
    inside, go = threading.Event(), threading.Event()

    def make(path: Path) -> None:
        made.append(1)
        inside.set()
        assert go.wait(10)
        path.write_text("x")

    threads = [threading.Thread(target=Cache(tmp_path).get, args=("kind", "k", make)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert inside.wait(10)
    go.set()
    for thread in threads:
        thread.join(10)
    assert made == [1]


def test_old_entries_are_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    for number in range(4):
        entry = cache.get("kind", f"k{number}", lambda path: path.mkdir(), keep=2)
        os.utime(entry, (number, number))
    assert sorted(path.name for path in (tmp_path / "kind").iterdir()) == [".lock", "k2", "k3"]


def test_digest_tells_parts_apart(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"bc")
    assert digest_of("a", path) == digest_of("a", "bc") == digest_of(b"a", b"bc")
    assert len({digest_of("ab", "c"), digest_of("a", "bc"), digest_of("abc"), digest_of("a", "bc", "")}) == 4


def test_installed_files_are_whole_and_readable(tmp_path: Path) -> None:
    write(tmp_path / "a/b", b"one")
    (tmp_path / "source").write_bytes(b"two")
    before = os.open(tmp_path / "a/b", os.O_RDONLY)
    install(tmp_path / "source", tmp_path / "a/b")
    assert os.read(before, 10) == b"one", "who has the old file open reads the old file"
    os.close(before)
    assert (tmp_path / "a/b").read_bytes() == b"two"
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


# --- Debian ---------------------------------------------------------------------------------------------------


def test_missing_program_names_its_package() -> None:
    with pytest.raises(OperatorError, match="apt-get install no-such-package"):
        debian.run(["no-such-program-anywhere"], package="no-such-package")


def test_failing_program_shows_its_last_words() -> None:
    with pytest.raises(OperatorError, match=r"sh -c .* failed \(3\): it is the moon"):
        debian.run(["sh", "-c", "echo it is the moon >&2; exit 3"], package="dash")


# --- kernel modules -------------------------------------------------------------------------------------------

DEPENDENCIES = modules.parse_dependencies(
    """kernel/drivers/net/virtio_net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/drivers/ata/ahci.ko: kernel/drivers/ata/libahci.ko
kernel/drivers/ata/libahci.ko:
kernel/drivers/ata/pata/old.ko:
kernel/fs/btrfs/btrfs.ko:
kernel/crypto/xxhash_generic.ko:
"""
)
SOFT = modules.parse_soft_dependencies(
    "# comment\nsoftdep btrfs pre: xxhash-generic post: nothing_here\nsoftdep x\n"
)


@pytest.mark.parametrize(
    ("wanted", "chosen", "unknown"),
    [
        (["virtio-net"], {"virtio_net", "net_failover", "failover"}, []),
        (["btrfs"], {"btrfs", "xxhash_generic"}, []),
        (["kernel/drivers/ata/*"], {"ahci", "libahci"}, []),
        (["kernel/drivers/ata/**"], {"ahci", "libahci", "old"}, []),
        (["virtio_nett", "kernel/none/*"], set(), ["virtio_nett", "kernel/none/*"]),
    ],
)
def test_modules_bring_what_they_need(wanted: list[str], chosen: set[str], unknown: list[str]) -> None:
    paths, missing = modules.choose(wanted, DEPENDENCIES, SOFT)
    assert {modules.module_name(path) for path in paths} == chosen
    assert missing == unknown


# --- archives -------------------------------------------------------------------------------------------------


def test_cpio_reads_the_initramfs(tmp_path: Path) -> None:
    """GNU cpio unpacks what the kernel will; concatenated archives are read one after the other by the kernel."""
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/busybox").write_bytes(os.urandom(4099))
    (tree / "bin/busybox").chmod(0o755)
    (tree / "bin/sh").symlink_to("busybox")
    archive = Archive()
    archive.add_tree(tree)
    archive.add_file("deep/down/file", b"x")
    packed = compress(archive.finish())
    raw = zstandard.ZstdDecompressor().decompress(packed)
    assert len(raw) % 512 == 0
    target = tmp_path / "target"
    target.mkdir()
    try:
        subprocess.run(["cpio", "-i", "--quiet"], input=raw, cwd=target, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("cpio is not installed")
    assert (target / "bin/busybox").read_bytes() == (tree / "bin/busybox").read_bytes()
    assert (target / "bin/busybox").stat().st_mode & 0o777 == 0o755
    assert os.readlink(target / "bin/sh") == "busybox"  # noqa: PTH115
    assert (target / "deep/down/file").read_bytes() == b"x"


def test_equal_trees_give_equal_archives(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    first, second = Archive(), Archive()
    first.add_tree(tmp_path)
    os.utime(tmp_path / "a", (1, 1))
    second.add_tree(tmp_path)
    assert first.finish() == second.finish()
