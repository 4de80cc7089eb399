"""What the operators' interface answers about images and jobs, as types. As `answers.py`; sizes in bytes."""

from typing import Any

from msgspec import Struct


class Image(Struct):
    """``created`` as its manifest says it (RFC 3339); ``stored``: when it came into this store."""

    id: str
    name: str
    tags: list[str]
    user: str
    created: str
    comment: str
    origin: str
    kind: str
    size: int
    stored: float


class Version(Image):
    """One of several of a name; ``new_bytes`` of it were not in the one before."""

    new_chunks: int
    new_bytes: int


class ImageFilesystem(Struct):
    start: int
    size: int
    type: str
    label: str
    uuid: str


class WholeImage(Image):
    """``stored_bytes``: what its chunks take on the disk, shared ones too; ``used_bytes`` of the size hold data."""

    sector: int
    chunk_size: int
    chunks: int
    zero_chunks: int
    distinct_chunks: int
    missing_chunks: int
    stored_bytes: int
    used_bytes: int
    table: dict[str, Any] | None
    filesystems: list[ImageFilesystem]
    tree: dict[str, Any] | None  # of an image of files: where its file systems were, their kinds and sizes


class ImageTicket(Struct):
    """``GET http://SERVER:port`` + path + ``/manifests/ID`` or ``/chunks/DIGEST``, Authorization: Bearer TICKET."""

    ticket: str
    address: str
    expires: float
    port: int
    path: str


class JobError(Struct):
    """``code`` is the exit code of the command line."""

    message: str
    hint: str
    code: int


class Job(Struct):
    """Long work. ``state``: queued, running, done, failed or cancelled; ``done`` of ``total`` bytes or pieces."""

    id: str
    kind: str
    detail: str
    who: str
    created: float
    state: str
    done: int
    total: int
    text: str
    ended: float | None
    notes: list[str]
    result: dict[str, Any] | None
    error: JobError | None


class Fetched(Struct):
    """``id`` of an image that is here, or the job that brings it."""

    id: str
    job: Job | None


class PutTree(Struct):
    """An image of files that was made. ``files``: how many; ``new_bytes`` of its size were not in the store."""

    id: str
    name: str
    size: int
    files: int
    chunks: int
    new_chunks: int
    new_bytes: int
