"""Files that say which machine this is: /etc/hostname, /etc/hosts, /etc/mailname, sysconfig. Text in, text out."""

import re

# What systemd's hostname(5) and RFC 1123, section 2.1, allow for one label, and a whole name of 253 at most.
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z", re.IGNORECASE)


def is_host_name(name: str) -> bool:
    """Whether it can be a host name, with or without domain; it goes into files that programs parse."""
    return len(name) <= 253 and all(_LABEL.match(label) for label in name.split("."))


def old_host_name(text: str) -> str:
    """The name in /etc/hostname; "" when it holds none."""
    for line in text.splitlines():
        word = line.strip()
        if word and not word.startswith("#"):
            return word
    return ""


def full_name(name: str, old_hosts: str, old: str) -> str:
    """``name`` with a domain: its own, else the one that the tree's hosts file gives the old name; else ""."""
    if "." in name:
        return name
    for line in old_hosts.splitlines():
        for word in line.partition("#")[0].split()[1:]:
            if old and word.startswith(f"{_short(old)}."):
                return f"{name}.{word.partition('.')[2]}"
    return ""


def rewrite_hostname(text: str, name: str) -> str:
    """A long name where one was, as some distributions want it; else the short one."""
    return f"{name if '.' in old_host_name(text) and '.' in name else _short(name)}\n"


def rewrite_hosts(text: str, name: str, old: str) -> str:
    """127.0.1.1 names this machine (Debian's way); the old name goes from the loopback lines.

    Lines of other addresses stay: they may well mean the machine that the tree came from.
    """
    full = full_name(name, text, old)
    names = list(dict.fromkeys(word for word in (full, _short(name)) if word))
    stale = {old, _short(old)} | ({f"{_short(old)}.{full.partition('.')[2]}"} if full else set()) - {""}
    lines: list[str] = []
    is_written = False
    for line in text.splitlines():
        content, mark, comment = line.partition("#")
        words = content.split()
        if words and words[0] == "127.0.1.1":
            if not is_written:
                lines.append(_join_names("127.0.1.1", names, f"{mark}{comment}"))
                is_written = True
        elif words and words[0] in ("127.0.0.1", "::1") and any(word in stale for word in words[1:]):
            kept = [word for word in words[1:] if word not in stale] or ["localhost"]
            lines.append(_join_names(words[0], kept, f"{mark}{comment}"))
        else:
            lines.append(line)
    if not is_written:
        places = [number for number, line in enumerate(lines) if line.split()[:1] == ["127.0.0.1"]]
        if not places:
            lines.insert(0, "127.0.0.1\tlocalhost")
            places = [0]
        lines.insert(places[0] + 1, _join_names("127.0.1.1", names, ""))
    return "".join(f"{line}\n" for line in lines)


def rewrite_sysconfig(text: str, name: str) -> str:
    """``HOSTNAME=`` of /etc/sysconfig/network and such, where it is set."""
    return re.sub(r"(?m)^(\s*(?:HOSTNAME|hostname)=).*$", lambda match: f'{match[1]}"{name}"', text)


def _join_names(address: str, names: list[str], comment: str) -> str:
    return "\t".join([address, *names, *([comment] if comment else [])])


def _short(name: str) -> str:
    return name.partition(".")[0]
