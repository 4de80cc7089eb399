"""Fixtures that several namespace tests share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.daemon import ADDRESS
from tests.netns.room import Room


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path, since unix sockets live in it."""
    path = Path(tempfile.mkdtemp(prefix="bootd-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def room() -> Iterator[Room]:
    """A server and two nodes."""
    with Room("server", "n1", "n2") as made:
        made.address("server", f"{ADDRESS}/24")
        made.address("n1", "10.9.0.11/24")
        made.address("n2", "10.9.0.12/24")
        yield made
        made.end_left("n1", "n2")
