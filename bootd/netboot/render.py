"""One table of labels, rendered for pxelinux, iPXE and GRUB for the node that asks. Text out, nothing else."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from bootd.netboot.labels import Label, LabelKind

KERNEL, INITRD = "stage1/vmlinuz", "stage1/initrd.img"


@dataclass(frozen=True)
class RenderContext:
    """What a configuration is rendered from. ``chosen`` is a key of ``labels``; ``why`` goes into a comment."""

    server: str  # IPv4 address
    http_port: int
    bulk_port: int
    labels: Mapping[str, Label]
    chosen: str
    mac: str
    token: str
    why: str = ""
    console: str = ""
    prompt_seconds: int = 0
    notes: tuple[str, ...] = field(default=())

    def bulk(self, path: str) -> str:
        """URL of a file below boot_dir, on the worker's port."""
        return f"http://{self.server}:{self.bulk_port}/{path.lstrip('/')}"


def command_line(label: Label, context: RenderContext) -> str:
    """Kernel command line of a label; bootd's own words follow the label's."""
    words = [label.append]
    if label.kind is LabelKind.STAGE:
        words += [
            f"bootd.server={context.server}:{context.http_port}",
            f"bootd.node={context.mac}",
            f"bootd.token={context.token}",
            f"BOOTIF=01-{context.mac.replace(':', '-')}",
            context.console,
        ]
    return " ".join(_plain(word) for word in words if word)


def pxelinux(context: RenderContext) -> str:
    """pxelinux.cfg for this node (SYSLINUX 6 syntax). lpxelinux fetches the URLs over HTTP."""
    lines = [f"# {_plain(context.why)}", f"DEFAULT {context.chosen}"]
    if context.prompt_seconds:
        lines += ["PROMPT 1", f"TIMEOUT {context.prompt_seconds * 10}"]
        lines += [f"SAY {label.name:16} {_plain(label.title)}" for label in context.labels.values()]
    else:
        lines += ["PROMPT 0", "NOESCAPE 1"]
    for label in _shown(context):
        lines += ["", f"LABEL {label.name}"]
        if label.kind is LabelKind.LOCAL:
            lines.append("    LOCALBOOT 0")
            continue
        kernel, initrd = _files(label, context)
        lines.append(f"    KERNEL {kernel}")
        if initrd:
            lines.append(f"    INITRD {initrd}")
        lines.append(f"    APPEND {command_line(label, context)}")
    return "\n".join(lines) + "\n"


def ipxe(context: RenderContext) -> str:
    """iPXE script for this node; works on BIOS and on UEFI."""
    lines = ["#!ipxe", f"# {_plain(context.why)}"]
    if context.prompt_seconds:
        lines.append(f"menu bootd {context.mac}")
        lines += [f"item {label.name} {_ipxe(label.title or label.name)}" for label in context.labels.values()]
        timeout = context.prompt_seconds * 1000
        lines.append(f"choose --default {context.chosen} --timeout {timeout} target || set target {context.chosen}")
        lines.append("goto ${target}")
    else:
        lines.append(f"goto {context.chosen}")
    for label in _shown(context):
        lines += ["", f":{label.name}"]
        if label.kind is LabelKind.LOCAL:
            # `exit` on UEFI walks through every other boot option first (measured 200 s under OVMF): a small
            # loader that looks for the one on the disk is started instead.
            lines.append("iseq ${platform} efi && chain --replace " + context.bulk("local.efi") + " ||")
            lines.append("iseq ${platform} efi || sanboot --no-describe --drive 0x80 ||")
            lines.append("exit 1")
            continue
        kernel, initrd = _files(label, context)
        # The EFI stub finds the initrd by its name on the command line.
        name = " initrd=" + initrd.rsplit("/", 1)[-1] if initrd else ""
        lines.append(f"kernel {kernel} {_ipxe(command_line(label, context))}{name} || goto failed")
        if initrd:
            lines.append(f"initrd {initrd} || goto failed")
        lines.append("boot || goto failed")
    lines += ["", ":failed", f"echo bootd: cannot fetch the boot files from {context.server}, again in 10 s"]
    lines += ["sleep 10", "reboot"]
    return "\n".join(lines) + "\n"


def autoexec(server: str, http_port: int) -> str:
    """The script that iPXE asks for first: on to the node's own."""
    return f"#!ipxe\nisset ${{ip}} || dhcp || exit 1\nchain http://{server}:{http_port}/boot/boot.ipxe?mac=${{netX/mac}}\n"


def grub(context: RenderContext) -> str:
    """grub.cfg for this node. GRUB's HTTP is in Debian's unsigned images only."""
    lines = [f"# {_plain(context.why)}", f"set default={context.chosen}", f"set timeout={context.prompt_seconds}"]
    for label in _shown(context):
        title = _plain(label.title or label.name).replace("'", "")
        lines += ["", f"menuentry '{title}' --id {label.name} {{"]
        if label.kind is LabelKind.LOCAL:
            lines.append("    exit 1")
        else:
            kernel, initrd = _files(label, context)
            lines.append(f"    linux {_grub(kernel)} {_quoted(command_line(label, context))}")
            if initrd:
                lines.append(f"    initrd {_grub(initrd)}")
        lines.append("}")
    return "\n".join(lines) + "\n"


def _shown(context: RenderContext) -> list[Label]:
    if context.prompt_seconds:
        return list(context.labels.values())
    return [context.labels[context.chosen]]


def _files(label: Label, context: RenderContext) -> tuple[str, str]:
    if label.kind is LabelKind.STAGE:
        return context.bulk(KERNEL), context.bulk(INITRD)
    return context.bulk(label.kernel), context.bulk(label.initrd) if label.initrd else ""


def _plain(text: str) -> str:
    """One line of printable text: an operator's title cannot add a line to a configuration."""
    return re.sub(r"[^\x20-\x7e]+", " ", text).strip()


def _ipxe(text: str) -> str:
    """iPXE expands ${...} and splits commands at || and &&: such text loses what makes it so."""
    return _plain(text).replace("${", "{").replace("||", "|").replace("&&", "&")


def _grub(url: str) -> str:
    host, _, path = url.removeprefix("http://").partition("/")
    return f"(http,{host})/{path}"


def _quoted(text: str) -> str:
    return " ".join("'" + word.replace("'", "") + "'" for word in text.split())
