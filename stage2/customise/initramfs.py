"""The initramfs, rebuilt for the hardware that was found and the disks that were made."""

from stage2.customise import boot_text
from stage2.customise.facts import CustomiseError
from stage2.customise.work import Work

SECONDS = 1800.0  # for one kernel's; a software-emulated machine is slow
_SETTINGS = "/etc/initramfs-tools/conf.d/zz-bootd"  # the last one read wins
_RESUME = "/etc/initramfs-tools/conf.d/resume"
_MODULES = "/etc/initramfs-tools/modules"
_DRACUT = "/etc/dracut.conf.d/bootd.conf"


def rebuild(work: Work) -> str:
    kernels = _kernels(work)
    if not kernels:
        raise CustomiseError(
            "the tree has no kernel (/boot/vmlinuz-VERSION with /lib/modules/VERSION): install one"
        )
    if work.made.arrays and not work.program("mdadm"):
        raise CustomiseError(
            "the layout has a RAID, and the tree no mdadm to start it: install it on the golden node"
        )
    if work.made.groups and not work.program("lvm"):
        raise CustomiseError("the layout has LVM, and the tree has none: install lvm2 on the golden node")
    modules = _modules(work, kernels)
    if work.program("mkinitramfs"):  # dracut may bring an update-initramfs of its own
        return _debian(work, kernels, modules)
    if work.program("dracut"):
        return _dracut(work, kernels, modules)
    if modules:
        raise CustomiseError(
            "the tree has neither initramfs-tools nor dracut: its initramfs cannot be rebuilt for this hardware "
            "(without it, leave the step `initramfs` out)"
        )
    return "the tree has no program for it, and needs no driver"


def _debian(work: Work, kernels: list[str], modules: tuple[str, ...]) -> str:
    work.write(_RESUME, boot_text.resume_setting(work.swap))
    # "dep" takes what the machine of the moment needs; the next disk controller would not be in it.
    settings = ["/etc/initramfs-tools/initramfs.conf", *work.tree.names("/etc/initramfs-tools/conf.d")]
    chosen = [boot_text.chosen_modules(work.tree.read(path) or "") for path in settings if path != _SETTINGS]
    if next((word for word in reversed(chosen) if word), "most") == "most":
        work.remove(_SETTINGS)
    else:
        work.write(_SETTINGS, "MODULES=most\n")
    before = work.tree.read(_MODULES) or ""
    work.write(_MODULES, boot_text.with_block(before, modules))
    for kernel in kernels:
        _make(work, f"/boot/initrd.img-{kernel}", [work.program("update-initramfs"), "-c", "-k", kernel])
    return f"initramfs-tools, for {', '.join(kernels)}" + (f", with {', '.join(modules)}" if modules else "")


def _dracut(work: Work, kernels: list[str], modules: tuple[str, ...]) -> str:
    """Each under the name that it has already, which differs between distributions."""
    is_assembled = bool(work.made.arrays or work.made.groups)
    work.write(_DRACUT, boot_text.dracut_setting(modules, is_assembled=is_assembled))
    for kernel in kernels:
        names = (f"/boot/initramfs-{kernel}.img", f"/boot/initrd.img-{kernel}", f"/boot/initrd-{kernel}")
        image = next((name for name in names if work.tree.is_file(name)), names[0])
        _make(work, image, [work.program("dracut"), "--force", image, kernel])
    return f"dracut, for {', '.join(kernels)}" + (f", with {', '.join(modules)}" if modules else "")


def _make(work: Work, image: str, command: list[str]) -> None:
    """The old one goes first, so that one that is there afterwards is a new one."""
    work.tree.remove(image)
    work.chroot.run(command, SECONDS)
    if not work.tree.is_file(image):
        raise CustomiseError(f"{command[0]} made no {image}")
    work.changed.append(image)


def _kernels(work: Work) -> list[str]:
    folder = "/lib/modules" if work.tree.is_folder("/lib/modules") else "/usr/lib/modules"
    names = [path.rpartition("/")[2] for path in work.tree.names(folder)]
    return [name for name in names if work.tree.is_file(f"/boot/vmlinuz-{name}")]


def _modules(work: Work, kernels: list[str]) -> tuple[str, ...]:
    """Those that a kernel of the tree has, out of the hardware's and the operator's."""
    found: dict[str, None] = {}
    for kernel in kernels:
        dependencies = work.tree.read(f"/lib/modules/{kernel}/modules.dep") or ""
        built_in = work.tree.read(f"/lib/modules/{kernel}/modules.builtin") or ""
        names = (*work.facts.drivers, *work.facts.modules)
        here, missing = boot_text.available_modules(names, dependencies, built_in)
        found.update(dict.fromkeys(here))
        asked = {name.replace("-", "_") for name in work.facts.modules}
        unknown = sorted(asked & set(missing))
        if unknown:
            raise CustomiseError(f"kernel {kernel} of the tree has no module {', '.join(unknown)}")
        if missing:
            work.warn(f"kernel {kernel} of the tree lacks what drives this hardware here: {', '.join(missing)}")
    return tuple(found)
