"""What dolly and dolly+ print while they work, in the words that people and scripts look for. Rates in MB of
10^6."""

from collections.abc import Sequence

from bootd.dolly.config import Config

STEP = 10_000_000  # bytes from one line to the next
LIMITS = (
    "dolly's wire: a copy is confirmed by its length alone (no digest), a lost host takes its branch with it (no"
    " recovery), and nobody proves who they are. bootd dolly --ring has all three."
)


class Meter:
    """Progress of one stream. Times in seconds."""

    def __init__(self, began: float, *, is_plus: bool, is_head: bool) -> None:
        self._began = self._last = began
        self._is_plus, self._is_head = is_plus, is_head
        self._shown = 0

    def line(self, done: int, now: float) -> str:
        """A line when another 10 MB are through, else ""."""
        if done - self._shown < STEP:
            return ""
        whole = _rate(done, now - self._began)
        current = _rate(done - self._shown, now - self._last)
        spent, last = now - self._began, now - self._last
        self._last, self._shown = now, done
        if self._is_plus:
            return f"{done / 1e6:.0f}MB  {whole:.2f}MB/s 10MB={current:.1f}MB/s ({spent:.1f}s 10MB={last:.1f}s)"
        word = "Sent" if self._is_head else "Transfered"
        return f"{word} MB: {done / 1e6:.0f}, MB/s: {whole:.3f}, Current MB/s: {current:.3f}"


def head_summary(config: Config, total: int, seconds: float, unpacked: int = 0) -> list[str]:
    """At the end, on the head. ``unpacked``: bytes of the file when it was decompressed (-c)."""
    rate, hosts = _rate(total, seconds), len(config.clients)
    if config.is_plus:
        return [
            f"TotalTime={seconds:.2f}(sec)",
            f"Transfer Bytes={total / 1e6:.0f}MB. Transfer Speed={rate:.2f}MB/s",
        ]
    found = [f"Time: {seconds:.3f}", f"MBytes/s: {rate:.3f}", f"Aggregate MBytes/s: {rate * hosts:.3f}"]
    if unpacked:
        written = _rate(unpacked, seconds)
        found += [
            f"Bytes written on each node: {unpacked}",
            f"MBytes/s written: {written:.3f}",
            f"Aggregate MBytes/s written: {written * hosts:.3f}",
        ]
    return found


def log_line(config: Config, total: int, seconds: float) -> str:
    """A line of the log file (-o): data in MiB, segment size, clients, seconds, MB/s, MB/s of all clients."""
    rate = _rate(total, seconds)
    return (
        f" {total >> 20:8d} {config.segsize or 1460:8d} {len(config.clients):8d}"
        f"{seconds:11.6f}  {rate:.6f}  {rate * len(config.clients):.6f}  "
    )


def parameters(config: Config, place: int, children: Sequence[str]) -> list[str]:
    """What -v shows before it starts. ``place``: of this host in the list, -1 is the server."""
    found = ["Parameter file:"]
    for item in config.files:
        split = ", splitted in parts" if item.is_split else ""
        pieces = f", splitted in {item.piece} byte parts" if item.piece else ""
        found.append(f"infile = '{item.infile}'{split}")
        found.append(f"{'compressed ' * item.compress}outfile = '{item.outfile}'{pieces} ({item.cooking})")
    if config.segsize:
        found.append(f"TCP segment size = {config.segsize}")
    if config.extra is not None:
        kind = "Midfixes" if config.extra.is_midfix else "Postfixes"
        found.append(
            f"add_nr (extra network interfaces) = {config.extra.count}, {kind}: {':'.join(config.extra.names)}"
        )
    found.append(f"fanout = {config.fanout}")
    found.append(f"server = '{config.server}'")
    found.append("I'm the server." if place < 0 else f"I'm number {place}")
    found.append(f"There are {len(config.clients)} hosts in the ring (excluding server):")
    found += [f"\t'{name}'" for name in config.clients]
    found.append("Next hosts in ring:")
    found += [f"\t{name}" for name in children] or ["\tnone."]
    return found


def hosts_table(config: Config, troubled: Sequence[str] = ()) -> list[str]:
    """dolly+'s list of hosts; 3 marks one that has a trouble."""
    found = ["HOSTs", "-------------List---------------------", f"Items = {len(config.clients) + 1}"]
    found.append("No.    flag   name")
    for number, name in enumerate((config.server, *config.clients)):
        found.append(f"{number + 1:3d}    {3 if name in troubled else 1}      {name}")
    found.append("-" * 38)
    if troubled:
        found += ["*" * 42, "* Host marked with flag=3 has a trouble. *", "*" * 42]
    return found


def files_table(config: Config) -> list[str]:
    """dolly+'s list of files."""
    found = ["FILEs", "-------------List-------------------------------", f"Items = {len(config.files)}"]
    found.append("No.    flag   name                 name")
    for number, item in enumerate(config.files):
        found.append(f"{number + 1:3d}    {int(not item.cooking.is_raw)}      {item.infile:20s} {item.outfile}")
    found.append("-" * 48)
    return found


def _rate(count: int, seconds: float) -> float:
    """MB/s."""
    return count / 1e6 / seconds if seconds > 0 else 0.0
