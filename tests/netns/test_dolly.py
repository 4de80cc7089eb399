"""The examples of dolly's and dolly+'s documents, to the letter: their commands, files, hosts' names, addresses and
devices, each host in a namespace of its own with loop devices for its disks."""

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from bootd.errors import Exit
from tests.namespaces import APART
from tests.netns.room import Process, Room
from tests.unit.test_dolly_files import make_archive, make_tree, pack, tree_of
from tests.unit.test_dolly_grammar import DISK, PLUS, STAGE2

pytestmark = pytest.mark.netns
BOOTD = [sys.executable, "-c", "from bootd.cli.main import main; main()"]
BLOCK = 4096


def numbered(blocks: int) -> bytes:
    """Each block carries its number, so one that is repeated or at the wrong place shows."""
    return b"".join(number.to_bytes(8, "big") + os.urandom(BLOCK - 8) for number in range(blocks))


@pytest.fixture
def loops() -> Iterator[list[str]]:
    made: list[str] = []
    yield made
    for device in made:
        subprocess.run(["losetup", "--detach", device], check=True)


def loop(loops: list[str], path: Path, content: bytes) -> tuple[int, int]:
    """A loop device over a file with ``content``: its major and minor number."""
    path.write_bytes(content)
    made = subprocess.run(["losetup", "--find", "--show", str(path)], check=True, capture_output=True, text=True)
    loops.append(made.stdout.strip())
    status = os.stat(loops[-1])  # noqa: PTH116
    return os.major(status.st_rdev), os.minor(status.st_rdev)


def flush(device: str) -> None:
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run(["blockdev", "--flushbufs", device], check=True)


class Hosts:
    """Each with its own name, its own /dev with the disks it is given, and one table of names for all."""

    def __init__(self, room: Room, folder: Path, names: Mapping[str, str]) -> None:
        """``names``: namespace -> name and address, as ``node1 10.0.1.1``."""
        self._room, self._folder = room, folder
        self._names = {space: value.split() for space, value in names.items()}
        lines = [f"{address} {name}" for name, address in self._names.values()]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        for space, (_, address) in self._names.items():
            room.address(space, f"{address}/24")

    def start(
        self,
        space: str,
        words: Sequence[str],
        disks: Mapping[str, tuple[int, int]],
        cwd: Path,
        over: Mapping[str, Path] | None = None,
    ) -> Process:
        """``bootd WORDS`` there. ``disks``: name in /dev -> device numbers; ``over``: folder of / -> what takes its
        place, for this process only."""
        name, _ = self._names[space]
        root = self._folder / f"root-{space}"
        root.mkdir(exist_ok=True)
        lines = [
            f"hostname {name}",
            f"mount -t tmpfs none {root}",
            f"for d in /*; do if [ -L $d ]; then cp -P $d {root}; elif [ -d $d ]; then "
            f"mkdir {root}$d; [ $d = /dev ] || mount --rbind $d {root}$d; fi; done",
            f"mount --bind {self._folder}/hosts {root}/etc/hosts",
            f"mknod -m 666 {root}/dev/null c 1 3",
            *(f"mknod {root}/dev/{disk} b {major} {minor}" for disk, (major, minor) in disks.items()),
            *(
                f"mkdir -p {root}{place}; mount --bind {folder} {root}{place}"
                for place, folder in (over or {}).items()
            ),
            f"exec chroot {root} sh -c {shlex.quote(f'cd {cwd} && exec {shlex.join([*BOOTD, *words])}')}",
        ]
        environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
        return self._room.start(space, [*APART, "--uts", "sh", "-ec", "\n".join(lines)], environment)


def test_stage2_img_to_dev_ram3(tmp_path: Path, loops: list[str]) -> None:
    """`infile stage2.img`, three clients by their addresses; larger devices than the image keep their rest."""
    body, old = numbered(700), numbered(800)
    (tmp_path / "stage2.img").write_bytes(body)
    (tmp_path / "dolly.cfg").write_text(STAGE2)
    names = {f"c{number}": f"client{number} 12.12.12.{number}" for number in (1, 2, 3)}
    with Room("srv", *names) as room:
        hosts = Hosts(room, tmp_path, {"srv": "servernode 12.12.12.9", **names})
        clients = []
        for space in names:
            disk = {"ram3": loop(loops, tmp_path / space, old)}
            words = ["dolly", "-v", "--allow", "/dev/ram3", "--yes-overwrite", "/dev/ram3"]
            clients.append(hosts.start(space, words, disk, tmp_path))
            clients[-1].wait_for("Accepting...")
        head = hosts.start("srv", shlex.split("dolly -s -v -f dolly.cfg"), {}, tmp_path)
        assert head.wait(40) == Exit.OK, head.output
        assert [client.wait(20) for client in clients] == [Exit.OK] * 3, clients[0].output
    for line in ("Waiting for ring to build...", "Machines left to wait for: 2", "Sent MB: 3.", "Clients done."):
        assert line in head.output
    for space, device in zip(names, loops, strict=True):
        flush(device)
        assert (tmp_path / space).read_bytes() == body + old[len(body) :]


def test_a_whole_disk_and_a_node_whose_disk_is_too_small(tmp_path: Path, loops: list[str]) -> None:
    """The typical file for /dev/sda: four nodes; then again, where one of them has a smaller disk."""
    body = numbered(500)
    (tmp_path / "dolly.cfg").write_text(DISK)
    names = {f"n{number}": f"node{number} 10.0.1.{number}" for number in (1, 2, 3, 4, 5)}
    targets = [space for space in names if space != "n1"]
    words = ["dolly", "-v", "--yes-overwrite", "/dev/sda"]
    with Room(*names) as room:
        hosts = Hosts(room, tmp_path, names)
        source = {"sda": loop(loops, tmp_path / "n1", body)}
        disks = {space: {"sda": loop(loops, tmp_path / space, bytes(len(body)))} for space in targets}
        clients = [hosts.start(space, words, disks[space], tmp_path) for space in targets]
        head = hosts.start("n1", shlex.split("dolly -s -v -f dolly.cfg"), source, tmp_path)
        assert head.wait(40) == Exit.OK, head.output
        assert [client.wait(20) for client in clients] == [Exit.OK] * 4, clients[0].output
        for space, device in zip(names, loops, strict=True):
            flush(device)
            assert (tmp_path / space).read_bytes() == body, space
        disks["n4"] = {"sda": loop(loops, tmp_path / "small", bytes(100 * BLOCK))}
        source = {"sda": loop(loops, tmp_path / "other", numbered(500))}
        clients = [hosts.start(space, words, disks[space], tmp_path) for space in targets]
        for client in clients:
            client.wait_for("Accepting...")
        head = hosts.start("n1", shlex.split("dolly -s -v -f dolly.cfg"), source, tmp_path)
        assert head.wait(40) == Exit.ERROR, head.output
        assert clients[2].wait(20) == Exit.REFUSED
        assert f"/dev/sda has room for {100 * BLOCK} bytes, {len(body)} will come" in clients[2].output
        clients[0].wait_for("left before there was data")
        assert (tmp_path / "n2").read_bytes() == body  # nobody has begun
        assert (tmp_path / "small").read_bytes() == bytes(100 * BLOCK)
        for client in (clients[0], clients[1], clients[3]):
            client.stop()


def test_dolly_plus_three_files(tmp_path: Path, loops: list[str]) -> None:
    """`iofiles 3`: a partition to a file, a file that is unpacked, an archive into /boot."""
    body = numbered(300)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").write_bytes(body[:100_001])
    tree = make_tree(tmp_path / "tree")
    packed = pack(make_archive(tmp_path / "tree", tmp_path / "boot.tar"), "Z")
    archive = pack(tmp_path / "plain" / "file", "gz")
    (tmp_path / "dolly.cfg").write_text(PLUS)
    names = {
        "srv": "max5.paris 10.0.2.5", "c6": "max6.paris 10.0.2.6",
        "c7": "max7.paris 10.0.2.7", "c8": "max8.paris 10.0.2.8",
    }  # fmt: skip
    with Room(*names) as room:
        hosts = Hosts(room, tmp_path, names)
        clients = []
        for space in list(names)[1:]:
            over = {f"/{name}": tmp_path / space / name for name in ("tmp", "data", "boot")}
            for folder in (*over.values(), over["/tmp"] / "dev"):
                folder.mkdir(parents=True, exist_ok=True)
            allowed = [f"--allow={path}" for path in ("/tmp/dev/hda1", "/data/file", "/boot")]
            clients.append(hosts.start(space, ["dolly", "-v", *allowed], {}, Path("/"), over))
            clients[-1].wait_for("Accepting...")
        source = {"hda1": loop(loops, tmp_path / "hda1", body)}
        (tmp_path / "data").mkdir()
        archive.rename(tmp_path / "data" / "file.gz")
        head = hosts.start(
            "srv", shlex.split("dolly -s -v -f dolly.cfg"), source, tmp_path, {"/data": tmp_path / "data"}
        )
        assert head.wait(40) == Exit.OK, head.output
        assert [client.wait(20) for client in clients] == [Exit.OK] * 3, clients[0].output
    for space in list(names)[1:]:
        folder = tmp_path / space
        assert (folder / "tmp" / "dev" / "hda1").read_bytes() == body
        assert (folder / "data" / "file").read_bytes() == body[:100_001]
        assert tree_of(folder / "boot") == tree
    assert packed.name == "boot.tar.Z"
    for line in (
        "Items = 4", "  1    1      max5.paris", "fileno=0 '/dev/hda1' opened.",
        "fileno=2 closed", "Transfer Speed=",
    ):  # fmt: skip
        assert line in head.output, line
