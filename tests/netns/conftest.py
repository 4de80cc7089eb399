"""Fixtures that several namespace tests share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path, since unix sockets live in it."""
    path = Path(tempfile.mkdtemp(prefix="bootd-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
