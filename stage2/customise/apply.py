"""The steps of customise, in order, each logged."""

import re
from collections.abc import Callable

from stage2.customise import disks, grub, hooks, identity, initramfs, own
from stage2.customise.facts import STEPS, CustomiseError, Facts, Outcome, Result
from stage2.customise.running import Chroot
from stage2.customise.tree import Tree, TreeError
from stage2.customise.work import Work
from stage2.made import Made
from stage2.mounting import mounted_here

_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}\Z")
BOOTLOADERS = ("grub", "none")
_STEPS: dict[str, Callable[[Work], str]] = {
    "hostname": own.set_hostname,
    "machine-id": own.clear_machine_id,
    "ssh-keys": own.renew_ssh_keys,
    "network": own.bind_network,
    "leases": own.forget_leases,
    "seeds": own.forget_seeds,
    "fstab": disks.rewrite_fstab,
    "crypttab": disks.rewrite_crypttab,
    "arrays": disks.rewrite_arrays,
    "volumes": disks.forget_volumes,
    "hooks": hooks.run_all,
    "initramfs": initramfs.rebuild,
    "bootloader": grub.install,
    "selinux": own.relabel,
}
# Of no use to a tree that lies on no disk of its own (a root in memory).
_OF_DISKS = ("fstab", "crypttab", "arrays", "volumes", "initramfs", "bootloader")


def customise(root: str, made: Made, facts: Facts, tell: Callable[[str], None]) -> Result:
    """Make the tree below ``root`` this node's own and bootable; ``made`` is mounted there by the caller.

    ``tell`` gets every line for the log. Nothing is raised for what is wrong with the tree or its tools: that is
    ``Result.failure``. Every step may be done again and then changes nothing. No mount stays behind. Without any
    file system in ``made``, the steps about disks are left out.
    """
    outcomes: list[Outcome] = []
    warnings: list[str] = []
    step = "start"
    try:
        check(facts)
        with Tree(root) as tree:
            links = {one.uuid: one.device for one in made.filesystems if one.uuid}
            short = facts.name.partition(".")[0]
            work = Work(tree, Chroot(tree, short, links, tell), made, facts, tell, warnings=warnings)
            disks.check_mounted(work, mounted_here())
            if made.filesystems:
                disks.check_disks(work)
            work.is_own = own.read_record(work)
            for step in STEPS:
                if step in facts.skip or (step in _OF_DISKS and not made.filesystems):
                    tell(f"customise: {step}: left out")
                    continue
                work.changed = []
                text = _STEPS[step](work)
                outcomes.append(Outcome(step, text, tuple(work.changed)))
                for path in work.changed:
                    tell(f"customise: {step}: {path}")
                tell(f"customise: {step}: {text}")
            step = "record"
            own.write_record(work)
    except (CustomiseError, TreeError) as error:
        failure = f"{step}: {error}"
    except OSError as error:
        failure = f"{step}: {error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
    else:
        return Result(tuple(outcomes), "", tuple(warnings))
    tell(f"customise: failed: {failure}")
    return Result(tuple(outcomes), failure, tuple(warnings))


def check(facts: Facts) -> None:
    """`CustomiseError` for facts that cannot be meant."""
    if not identity.is_host_name(facts.name):
        raise CustomiseError(f"{facts.name!r} is no host name: letters, digits and - in labels of 63 at most")
    if not _MAC.match(facts.mac):
        raise CustomiseError(
            f"{facts.mac!r} is no MAC address: six pairs of hexadecimal digits, lower case, with colons"
        )
    if facts.bootloader not in BOOTLOADERS:
        raise CustomiseError(f"the boot loader {facts.bootloader!r} is not supported: {' or '.join(BOOTLOADERS)}")
    unknown = sorted(facts.skip - set(STEPS))
    if unknown:
        raise CustomiseError(f"there is no step {', '.join(unknown)}: there are {', '.join(STEPS)}")
