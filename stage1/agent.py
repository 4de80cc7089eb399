"""The agent of stage1: read the command line, bring the network up, fetch stage2, mount it at /newroot.

Ends with 0 when /newroot is ready (``/init`` then switches root), with 1 when this node is parked: the reason is
on the console and, when the server can be reached, in a last `Report`; with 2 when its label wants it restarted
instead. It never starts over by itself.
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
from stage1.http import Connection, HttpError
from stage1.network import Lease, NetworkError, bring_up, wait_for_interface
from stage1.story import say, tell
from stage1.ways import Getting

RUN = "/run/bootd"
HANDOVER = f"{RUN}/node.json"
INIT = f"{RUN}/init"  # the path of the first program of the new root, for /init
NEW_ROOT = "/newroot"
PARKED, RESTART = 1, 2  # what /init does then
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
        mount_stage2(arrival.image, options)
        write_handover(options, arrival.lease)
    except (CommandLineError, ParkedError, OSError, MountError) as error:
        if options is not None and options.gives_up_by_reboot:
            say(f"restarting, as the label says: {error}")
            if lease is not None:
                tell_story(options)
            return RESTART
        say(f"parked: {error}")
        if options is not None and lease is not None:
            report_parked(options, str(error))
            tell_story(options)
        return PARKED
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
    return for_method(options.method)


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
        self._getting: Getting | None = None

    @property
    def image(self) -> str:
        """Path of stage2."""
        return self._getting.path if self._getting is not None else ""

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
        if self._getting is not None:
            self._getting.give_up()
        raise ParkedError(f"{policy.message} in {policy.tries} tries: {reason}")

    def _try(self, timeout: float) -> None:
        """One try: a server that does not answer yet is looked for until ``timeout`` seconds are over."""
        end = time.monotonic() + timeout
        if self.lease is None:
            self.lease = bring_up(wait_for_interface(self.options), self.options.static)
            say(f"network {self.lease.address}")
        if self._getting is None:
            self._getting = Getting(self.options, self.lease.address, RUN, CONNECT_TIMEOUT, say)
        while True:
            try:
                self._getting.fetch()
            except (OSError, HttpError):
                if time.monotonic() + PAUSE >= end:
                    raise
                time.sleep(PAUSE)
            else:
                return


class MountError(Exception):
    """stage2 is here, but cannot be mounted."""


def mount_stage2(image: str, options: BootOptions) -> None:
    """The squashfs, read-only, below a tmpfs that takes what stage2 (or the system in its place) writes."""
    for folder in ("lower", "writable"):
        os.makedirs(f"{RUN}/{folder}", exist_ok=True)
    _mount("-t", "squashfs", "-o", "loop,ro", image, f"{RUN}/lower")
    share = "50%" if options.system else "25%"
    _mount("-t", "tmpfs", "-o", f"mode=0755,size={share}", "writable", f"{RUN}/writable")
    for folder in ("upper", "work"):
        os.makedirs(f"{RUN}/writable/{folder}", exist_ok=True)
    layers = f"lowerdir={RUN}/lower,upperdir={RUN}/writable/upper,workdir={RUN}/writable/work"
    _mount("-t", "overlay", "-o", layers, "stage2", NEW_ROOT)
    for folder in ("dev", "proc", "sys", "run"):
        os.makedirs(f"{NEW_ROOT}/{folder}", exist_ok=True)
    if not os.path.lexists(NEW_ROOT + options.init):
        raise MountError(f"{options.system or 'stage2'} has no {options.init}")
    with open(INIT, "w") as stream:
        stream.write(options.init)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["/bin/busybox", "mount", *arguments], capture_output=True, check=False)
    if done.returncode != 0:
        text = done.stderr.decode(errors="replace").strip()
        raise MountError(f"mount {arguments[1]} at {arguments[-1]}: {text or done.returncode}")


def write_handover(options: BootOptions, lease: Lease | None) -> None:
    """What stage2 needs to know, in /run, which stays mounted over the switch."""
    with open(HANDOVER, "w") as stream:
        json.dump({"options": asdict(options), "lease": asdict(lease) if lease else None}, stream)
    resolver = f"{NEW_ROOT}/etc/resolv.conf"
    if lease is not None and os.path.isdir(f"{NEW_ROOT}/etc") and not os.path.islink(resolver):
        with open("/etc/resolv.conf") as source, open(resolver, "w") as target:
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
