"""What tells the boot where things are: kernel command lines, initramfs and RAID settings. Text in, text out."""

import re
from collections.abc import Iterable, Mapping, Sequence

from stage2.made import Array

BEGIN = "# bootd: begin"
END = "# bootd: end"
# Where a command line is kept: variables of /etc/default/grub, "options" of the boot loader specification.
_GRUB_LINE = re.compile(
    r"(?m)^(?P<head>\s*GRUB_CMDLINE_LINUX(?:_[A-Z_]+)?=)(?P<quote>[\"']?)(?P<words>.*?)(?P=quote)[ \t]*$"
)
_ENTRY_LINE = re.compile(r"(?m)^(?P<head>options[ \t]+)(?P<words>.*)$")
# Of volumes and arrays of the machine that the tree came from; a kernel that waits for one of them never boots.
_SOURCE_ONLY = ("rd.luks.", "rd.md.uuid=", "rd.lvm.lv=", "rd.lvm.vg=", "cryptdevice=")
_ROOT = re.compile(r"(?:UUID|LABEL|PARTUUID|PARTLABEL)=|/dev/")


def rewrite_command_line(words: str, root: str, swap: str, replaced: Mapping[str, str]) -> str:
    """A kernel command line for this node. ``root``, ``swap``: ``UUID=…`` ("" = none), ``replaced``: old to new.

    Only what names a device is touched: a word that is not known stays as it is.
    """
    fresh: list[str] = []
    for word in words.split():
        key, sign, value = word.partition("=")
        if key == "root" and sign and root and _ROOT.match(value):
            fresh.append(f"root={root}")
        elif key == "resume" and sign and value not in ("none", ""):
            fresh += [f"resume={swap}"] if swap else []
        elif key == "rootflags":
            flags = [flag for flag in value.split(",") if not flag.startswith(("subvol=", "subvolid="))]
            fresh += [f"rootflags={','.join(flags)}"] if flags else []
        elif sign and value in replaced:
            fresh.append(f"{key}={replaced[value]}")
        elif key != "resume_offset" and not word.startswith(_SOURCE_ONLY):
            fresh.append(word)
    return " ".join(fresh) if fresh != words.split() else words


def rewrite_default_grub(text: str, root: str, swap: str, replaced: Mapping[str, str]) -> str:
    """/etc/default/grub with command lines of this node."""

    def line(match: re.Match[str]) -> str:
        words = rewrite_command_line(match["words"], root, swap, replaced)
        quote = match["quote"] or ('"' if " " in words else "")
        return f"{match['head']}{quote}{words}{quote}"

    return _GRUB_LINE.sub(line, text)


def rewrite_entry(text: str, root: str, swap: str, replaced: Mapping[str, str]) -> str:
    """A file of /boot/loader/entries (the UAPI group's boot loader specification, type 1)."""
    return _ENTRY_LINE.sub(
        lambda match: match["head"] + rewrite_command_line(match["words"], root, swap, replaced), text
    )


def resume_setting(swap: str) -> str:
    """initramfs-tools' conf.d/resume: without it, it waits half a minute for the swap space of another machine."""
    return f"RESUME={swap or 'none'}\n"


def chosen_modules(text: str) -> str:
    """The last ``MODULES=`` of an initramfs.conf or a file of its conf.d; "" when there is none."""
    found = re.findall(r"(?m)^\s*MODULES=[\"']?([a-z]+)", text)
    return found[-1] if found else ""


def with_block(text: str, lines: Iterable[str]) -> str:
    """``text`` with these lines between our two marks at its end, in the place of those of an earlier time."""
    before = re.sub(rf"(?ms)^{BEGIN}$.*?^{END}$\n?", "", text)
    body = "".join(f"{line}\n" for line in lines)
    if not body:
        return before
    newline = "\n" if before and not before.endswith("\n") else ""
    return f"{before}{newline}{BEGIN}\n{body}{END}\n"


def dracut_setting(modules: Sequence[str], *, is_assembled: bool) -> str:
    """For /etc/dracut.conf.d: for any hardware, with these drivers.

    ``is_assembled``: arrays or volumes must be started; without being told which, dracut starts none by itself.
    """
    text = 'hostonly="no"\nhostonly_cmdline="no"\n' + ('kernel_cmdline+=" rd.auto=1 "\n' if is_assembled else "")
    return text + (f'add_drivers+=" {" ".join(modules)} "\n' if modules else "")


def available_modules(
    names: Iterable[str], dependencies: str, built_in: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Those of ``names`` that a kernel has as modules, and those that it has not at all; built-in ones in neither.

    ``dependencies`` is its modules.dep, ``built_in`` its modules.builtin.
    """
    loadable = {_module(line.partition(":")[0]) for line in dependencies.splitlines() if line}
    inside = {_module(line) for line in built_in.splitlines() if line}
    wanted = dict.fromkeys(name.replace("-", "_") for name in names)
    has = tuple(name for name in wanted if name in loadable)
    return has, tuple(name for name in wanted if name not in loadable and name not in inside)


def rewrite_mdadm(text: str, arrays: Sequence[Array]) -> str:
    """mdadm.conf(5) with these arrays and no other. A line that begins with blanks goes on with the one before."""
    kept: list[str] = []
    is_array = False
    for line in re.sub(rf"(?ms)^{BEGIN}$.*?^{END}$\n?", "", text).splitlines():
        if line[:1] not in (" ", "\t"):
            is_array = bool(re.match(r"ARR(A(Y)?)?\b", line, re.IGNORECASE))
        if not is_array:
            kept.append(line)
    plain = "".join(f"{line}\n" for line in kept)
    return with_block(plain, (f"ARRAY {array.device} metadata=1.2 UUID={array.uuid}" for array in arrays))


def _module(path: str) -> str:
    name = path.rpartition("/")[2]
    return name.partition(".ko")[0].replace("-", "_")
