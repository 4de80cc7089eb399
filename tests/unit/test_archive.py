"""What an archive of a tree leaves out, by the list that tar itself makes of it."""

import subprocess
from pathlib import Path

from bootd.member import archive


def test_what_is_never_in_it(tmp_path: Path) -> None:
    """What the kernel makes, and the key of the source's own agent; their folders stay."""
    for name in (
        "etc/bootd-agent/agent.json",
        "etc/bootd-agents",
        "proc/1/stat",
        "sys/x",
        "run/lock/x",
        "srv/proc/y",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("secret")
    made = subprocess.run(archive.create_words(str(tmp_path), ["/"]), capture_output=True, check=True, timeout=30)
    listed = subprocess.run(["tar", "--list"], input=made.stdout, capture_output=True, check=True, timeout=30)
    names = {name.rstrip("/") for name in listed.stdout.decode().split()}
    assert {"./etc/bootd-agent", "./etc/bootd-agents", "./proc", "./sys", "./run", "./srv/proc/y"} <= names
    assert not [name for name in names if name.startswith(("./etc/bootd-agent/", "./proc/", "./sys/", "./run/"))]
