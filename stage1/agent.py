"""The agent of stage1: read the command line, bring the network up, fetch stage2, mount it at /newroot.

Ends with 0 when /newroot is ready (``/init`` then switches root) and with 1 when this node is parked: the reason is
on the console and, when the server can be reached, in a last `Report`. It never starts over by itself.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict

from bootd.wire.control import MemberState, Report, encode
from bootd.wire.retry import RetryPolicy, for_method
from stage1 import ask
from stage1.cmdline import BootOptions, CommandLineError, parse
from stage1.fetch import Download, Source, locate
from stage1.http import Connection, HttpError
from stage1.network import Lease, NetworkError, bring_up, wait_for_interface
from stage1.story import say, tell

RUN = "/run/bootd"
STAGE2 = f"{RUN}/stage2.squashfs"
HANDOVER = f"{RUN}/node.json"
NEW_ROOT = "/newroot"
CONNECT_TIMEOUT = 10.0  # seconds, for every wait on the server
PAUSE = 2.0  # seconds between two looks for a server within one try
FAILURES = (OSError, HttpError, NetworkError)


class ParkedError(Exception):
    """This node gives up; the text is the reason for the operator."""


def main() -> int:
    say("start")
    options: BootOptions | None = None
    lease: Lease | None = None
    try:
        options = parse(read_words())
        arrival = Arrival(options)
        try:
            arrival.run(policy_of(options))
        finally:
            lease = arrival.lease
        mount_stage2()
        write_handover(options, arrival.lease)
    except (CommandLineError, ParkedError, OSError, MountError) as error:
        say(f"parked: {error}")
        if options is not None and lease is not None:
            report_parked(options, str(error))
            tell_story(options)
        return 1
    say("switching root")
    tell_story(options)
    return 0


def tell_story(options: BootOptions) -> None:
    """Have the server keep what this stage has said; when that fails, the console still has it."""
    trouble = tell(options.server_host, options.server_port, options.node, options.token)
    if trouble:
        say(f"the server did not take the log: {trouble}")


def read_words() -> str:
    """The kernel command line, or what the server says it should be. `ParkedError` after the last try."""
    with open("/proc/cmdline") as stream:
        text = stream.read()
    if not ask.wanted(text):
        return text
    policy = for_method("http")
    reason = ""
    for attempt in policy.attempts():
        time.sleep(attempt.delay)
        try:
            text = ask.complete(say)
        except FAILURES as error:
            reason = str(error)
            say(f"{policy.message}: {reason} (try {attempt.number} of {attempt.of})")
        else:
            say("the server has told my command line")
            return text
    raise ParkedError(f"{policy.message} in {policy.tries} tries: {reason}")


def policy_of(options: BootOptions) -> RetryPolicy:
    """Tries, time-out and words of the boot label's method. ``dolly_timeout`` is dolly's alone, as it was."""
    if options.method == "dolly":
        return for_method("dolly", options.dolly_timeout)
    return for_method("ka" if options.method == "ka" else "http")


def reason_of(error: Exception, options: BootOptions) -> str:
    """One failure in an operator's words. A bare errno says nothing, so it gets the server that it is about."""
    if isinstance(error, OSError):
        return f"{options.server_host}:{options.server_port}: {error.strerror or error or type(error).__name__}"
    return str(error)


def spread_of(node: str) -> float:
    """A number in [0, 1) that differs from node to node, so that a room does not knock all at once."""
    return int(node.rpartition(":")[2], 16) / 256


class Arrival:
    """What this node has reached so far: network, parts of stage2. A new try goes on from there."""

    def __init__(self, options: BootOptions) -> None:
        self.options = options
        self.lease: Lease | None = None
        self._download: Download | None = None

    def run(self, policy: RetryPolicy) -> None:
        """Network and stage2, in as many tries as the method has; `ParkedError` after the last."""
        reason = ""
        for attempt in policy.attempts(spread_of(self.options.node)):
            time.sleep(attempt.delay)
            try:
                self._try(attempt.timeout)
            except FAILURES as error:
                reason = reason_of(error, self.options)
                say(f"{policy.message}: {reason} (try {attempt.number} of {attempt.of})")
            else:
                return
        raise ParkedError(f"{policy.message} in {policy.tries} tries: {reason}")

    def _try(self, timeout: float) -> None:
        """One try: a server that does not answer yet is looked for until ``timeout`` seconds are over."""
        end = time.monotonic() + timeout
        if self.lease is None:
            self.lease = bring_up(wait_for_interface(self.options), self.options.static)
            say(f"network {self.lease.address}")
        while True:
            try:
                self._fetch()
            except (OSError, HttpError):
                if time.monotonic() + PAUSE >= end:
                    raise
                time.sleep(PAUSE)
            else:
                return

    def _fetch(self) -> None:
        options = self.options
        source = locate(options.server_host, options.server_port, options.node, options.token, CONNECT_TIMEOUT)
        download = self._take(source)
        meter = Meter()
        download.run(CONNECT_TIMEOUT, meter.show)
        download.close()
        say(f"stage2 fetched {source.size}")

    def _take(self, source: Source) -> Download:
        """The download that was begun, unless the server has another stage2 by now."""
        if self._download is not None and self._download.source != source:
            self._download.close()
            self._download = None
        if self._download is None:
            self._download = Download(source, STAGE2)
        return self._download


class Meter:
    """Progress on the console: a line at every tenth."""

    def __init__(self) -> None:
        self._tenth = 0

    def show(self, received: int, size: int) -> None:
        tenth = received * 10 // size
        if tenth > self._tenth:
            self._tenth = tenth
            say(f"stage2 {received >> 20} of {size >> 20} MiB")


class MountError(Exception):
    """stage2 is here, but cannot be mounted."""


def mount_stage2() -> None:
    """The squashfs, read-only, below a tmpfs that takes what stage2 writes."""
    for folder in ("lower", "writable"):
        os.makedirs(f"{RUN}/{folder}", exist_ok=True)
    _mount("-t", "squashfs", "-o", "loop,ro", STAGE2, f"{RUN}/lower")
    _mount("-t", "tmpfs", "-o", "mode=0755,size=25%", "writable", f"{RUN}/writable")
    for folder in ("upper", "work"):
        os.makedirs(f"{RUN}/writable/{folder}", exist_ok=True)
    layers = f"lowerdir={RUN}/lower,upperdir={RUN}/writable/upper,workdir={RUN}/writable/work"
    _mount("-t", "overlay", "-o", layers, "stage2", NEW_ROOT)
    for folder in ("dev", "proc", "sys", "run"):
        os.makedirs(f"{NEW_ROOT}/{folder}", exist_ok=True)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["/bin/busybox", "mount", *arguments], capture_output=True, check=False)
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()
        raise MountError(f"mount {arguments[1]} at {arguments[-1]}: {text or done.returncode}")


def write_handover(options: BootOptions, lease: Lease | None) -> None:
    """What stage2 needs to know, in /run, which stays mounted over the switch."""
    with open(HANDOVER, "w") as stream:
        json.dump({"options": asdict(options), "lease": asdict(lease) if lease else None}, stream)
    if lease is not None:
        with open("/etc/resolv.conf") as source, open(f"{NEW_ROOT}/etc/resolv.conf", "w") as target:
            target.write(source.read())


def report_parked(options: BootOptions, reason: str) -> None:
    """Tell the server why, once; when that fails the console has said it already."""
    body = encode(Report(options.node, "", MemberState.PARKED, reason=reason[:1000]))
    fields = {"Authorization": f"Bearer {options.token}", "Content-Type": "application/json"}
    try:
        with Connection(options.server_host, options.server_port, CONNECT_TIMEOUT) as connection:
            head = connection.request("POST", "/node/v1/report", fields, body)
    except (OSError, HttpError) as error:
        say(f"the server was not told: {error}")
        return
    say("the server knows" if head.status < 300 else f"the server was not told: {head.status} {head.reason}")


if __name__ == "__main__":
    sys.exit(main())
