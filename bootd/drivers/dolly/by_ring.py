"""dolly.cfg over bootd's own ring: its files as sources, what clients do with them as targets (docs/dolly.md)."""

import os
import shlex
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from bootd.dolly.config import Config, Transfer
from bootd.drivers.dolly.consumer import Piece
from bootd.drivers.dolly.source import Stream
from bootd.drivers.dolly.target import Target as Writer
from bootd.drivers.dolly.target import claim_target
from bootd.drivers.dolly.unpack import FAILURES
from bootd.drivers.ring.target import StreamTarget, Target, claim, claim_output
from bootd.errors import Exit, OperatorError
from bootd.member.sinks import Outlet, StreamStore
from bootd.member.spool import Spool
from bootd.member.store import Store
from bootd.session.arrangement import MAX_FAN_OUT
from bootd.wire.manifest import Manifest

_READ = 1 << 18
_JOIN = 5.0  # seconds
_STANDARD = ("-", "/dev/stdin", "/dev/stdout")


def check(config: Config) -> list[str]:
    """What of ``config`` means nothing on the ring, as warnings. `OperatorError` (USAGE) for what it cannot do."""
    if not config.files:
        raise OperatorError("dummy is for dolly's wire", "measure the ring with make bench-ring", Exit.USAGE)
    if config.fanout > MAX_FAN_OUT:
        raise OperatorError(f"fanout {config.fanout}", f"the ring has {MAX_FAN_OUT} at most", Exit.USAGE)
    warnings = []
    if config.segsize:
        warnings.append("segsize is not used on the ring")
    if config.extra is not None:
        warnings.append("add is not used on the ring: one connection to a neighbour")
    return warnings


def ring_sources(config: Config) -> tuple[list[str], list[str]]:
    """Files and shell commands for `bootd.drivers.ring.source.open_sources`, in the order of the files."""
    words: list[str] = []
    commands: list[str] = []
    for transfer in config.files:
        if transfer.is_split or transfer.compress:
            names = [transfer.infile]
            if transfer.is_split:
                names = Stream(transfer).parts
            line = f"cat -- {shlex.join(names)}"
            commands.append(f"{line} | gzip -c" if transfer.compress else line)
        else:
            words.append("-" if transfer.infile in _STANDARD else transfer.infile)
    return words, commands


def ring_targets(
    files: Sequence[Transfer], outfiles: Sequence[str], confirmed: Collection[str], spool: str
) -> list[Target]:
    """A target for each file; whatever was claimed is given up again when one cannot be."""
    paths = list(outfiles) or [transfer.outfile for transfer in files]
    if len(paths) != len(files):
        text = f"{len(files)} files, --outfile is said {len(paths)} times"
        raise OperatorError(text, "say it once for each file", Exit.USAGE)
    claimed: list[Target] = []
    try:
        for transfer, path in zip(files, paths, strict=True):
            if transfer.cooking.is_raw and not transfer.piece:
                claimed.append(claim_output(spool) if path in _STANDARD else claim(path, confirmed))
            else:
                writer = claim_target(path, transfer.cooking, transfer.piece, confirmed)
                claimed.append(_CookedTarget(writer, spool))
    except OperatorError:
        for target in claimed:
            target.close()
        raise
    return claimed


class _CookedTarget(StreamTarget):
    """A target of dolly's behind a member of the ring: fed from the spool, with what is durable there."""

    def __init__(self, writer: Writer, spool: str) -> None:
        super().__init__(writer.label, spool, self._build)
        self._writer = writer

    def commit(self) -> None:
        self._writer.commit()

    def close(self) -> None:
        self._writer.close()

    def _build(self, image: Manifest, number: int, folder: str) -> Store:
        return StreamStore(image, number, Spool(folder, image.parts[number].size), self._start)

    def _start(self, first: bytes) -> Outlet:  # noqa: ARG002 - the name has said what it is
        return _Pipe(self._writer)


class _Pipe:
    """A writer in a thread, as an outlet: what is written to ``stream`` goes to it."""

    def __init__(self, writer: Writer) -> None:
        self._reading, self.stream = os.pipe2(os.O_CLOEXEC)
        self._writer = writer
        self._reason = ""
        self._is_closed = False
        self._is_killed = False
        self._thread = threading.Thread(target=self._run, name="bootd-cook", daemon=True)
        self._thread.start()

    def close_stream(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            os.close(self.stream)

    def wait(self) -> str:
        self._thread.join()
        return self._reason

    def kill(self) -> None:
        if self._thread.is_alive():
            self._is_killed = True
            self._writer.close()
            self._thread.join(_JOIN)

    def _run(self) -> None:
        try:
            self._writer.take(self._pieces())
        except OSError as error:
            self._reason = error.strerror or str(error)
        except FAILURES as error:
            self._reason = str(error)
        except Exception as error:  # a defect here must not leave the member waiting
            self._reason = f"internal error: {error!r}"
        finally:
            os.close(self._reading)

    def _pieces(self) -> Iterator[Piece]:
        while piece := os.read(self._reading, _READ):
            if self._is_killed:
                raise OSError("given up")
            yield piece


def default_spool() -> str:
    """Where streams are kept that the ring has to read twice."""
    return str(Path("/var/tmp"))  # noqa: S108 - large and on disk (hier(7)); what is made there has no name
