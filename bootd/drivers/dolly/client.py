"""`bootd dolly` as client: waits for a head, writes what the operator has agreed to, and passes everything on."""

import socket
import time

from bootd.dolly.config import Announced, Config, Trailer
from bootd.drivers.dolly.link import listen, prepare
from bootd.drivers.dolly.session import Again, ClientRun, ClientSettings, FileReport, Tell, accept
from bootd.drivers.dolly.target import Nothing, Target, claim_all
from bootd.errors import Exit, OperatorError


class DollyClient:
    """Waits on both ports from the start. ``tell``: for everybody, ``detail``: what -v adds."""

    def __init__(self, settings: ClientSettings, tell: Tell, detail: Tell) -> None:
        self.settings, self._tell, self._detail = settings, tell, detail
        self.listeners = listen(settings.address, settings.tuning)
        self._targets: list[Target] = []
        self._announced: tuple[Announced, ...] = ()
        self._whole: set[int] = set()  # numbers of files
        self._number = 1

    def tell(self, line: str) -> None:
        self._tell(line)

    def detail(self, line: str) -> None:
        self._detail(line)

    def run(self) -> list[FileReport]:
        """Until the head's last file. `OperatorError`: no head came (UNREACHABLE), or it wanted what nobody has
        agreed to (REFUSED)."""
        reports: list[FileReport] = []
        try:
            while True:
                session = self._next_session(is_first=not reports)
                reports.append(session.report)
                if session.report.is_whole:
                    self._whole.add(self._number)
                if session.report.reason or session.is_last:
                    return reports
        finally:
            for target in self._targets:
                target.close()
            self.listeners.close()

    def _next_session(self, *, is_first: bool) -> ClientRun:
        """The next that has come as far as data."""
        settings = self.settings
        for attempt in range(1, settings.tries + 1):
            self.detail("Trying to build ring...")
            self.tell("Accepting...")
            deadline = time.monotonic() + settings.wait
            while (control := self._accept(deadline)) is not None:
                run = ClientRun(self, control)
                try:
                    run.run()
                except Again as error:
                    self.tell(f"{error}")
                    continue
                return run
            self.tell(f"Can't reach a valid Dolly server (try {attempt} of {settings.tries}, {settings.wait:g} s)")
        text = "no head of dolly came" if is_first else "the head did not come with its next file"
        raise OperatorError(text, "start it, or give it more time with -a SECONDS and --tries", Exit.UNREACHABLE)

    def _accept(self, deadline: float) -> socket.socket | None:
        while True:
            connection = accept(self.listeners.control, deadline)
            if connection is None:
                return None
            link, peer = connection
            if not self.settings.heads or peer in self.settings.heads:
                prepare(link, self.settings.tuning)
                self.detail(f"control from {peer}...")
                return link
            self.tell(f"{peer} is none of the hosts that may send here (--from): not let in")
            link.close()

    def claim(self, config: Config, trailer: Trailer | None) -> tuple[Target, bool]:
        """The target of this session, and whether it is the last one. Claims all of them at the first."""
        if not config.files:
            if not self.settings.is_dummy:
                raise OperatorError("the head makes a dummy run: nothing is cloned", "say -d here", Exit.REFUSED)
            return Nothing(), config.dummy == 0
        if self.settings.is_dummy:
            raise OperatorError("the head clones, this is a dummy run", "leave -d away here", Exit.REFUSED)
        transfer = config.files[0]
        files = trailer.files if trailer else (Announced(None, transfer.cooking, transfer.outfile),)
        number = trailer.number if trailer else 1
        if number > len(self._whole) + 1:
            text = f"the head is at file {number}, {len(self._whole)} are here"
            raise OperatorError(text, "begin again with the first", Exit.REFUSED)
        self._number = number
        if not self._targets:
            pieces = [transfer.piece if len(files) == 1 else 0] * len(files)
            self._targets = claim_all(files, pieces, self.settings.consent)
            self._announced = files
        elif files != self._announced:
            raise OperatorError("the head has changed its list of files", "nothing more is written", Exit.REFUSED)
        return self._targets[number - 1], number == len(files)
