"""What the boot plane asks the coordinator: which label a node boots now, ready to be rendered."""

from collections.abc import Mapping

import structlog

from bootd.config import Settings
from bootd.drivers.boot_history import LoopBreaker
from bootd.drivers.contents import is_verified
from bootd.drivers.engine import Engine
from bootd.errors import Exit, OperatorError
from bootd.netboot.diagnosis import DOCTOR_MAC
from bootd.netboot.labels import Label, LabelKind, foreign_labels
from bootd.netboot.offer import NodePolicy
from bootd.netboot.render import MENU_MODULES, RenderContext, plain

log = structlog.get_logger(__name__)

ARTEFACTS = (
    *("lpxelinux.0", "ldlinux.c32", "ipxe.efi", "local.efi"),
    *("stage1/vmlinuz", "stage1/initrd.img", "stage2/stage2.squashfs", "stage2/stage2.json"),
)


class BootContext:
    """Callable for `VirtualTree`: MAC to `RenderContext`, None for a node that gets nothing."""

    def __init__(
        self, engine: Engine, settings: Settings, address: str, labels: Mapping[str, Label] | None = None
    ) -> None:
        """``labels``: those of the settings and what else there is by now."""
        self._engine, self._settings, self._address = engine, settings, address
        self._labels = settings.labels if labels is None else labels

    def __call__(self, mac: str) -> RenderContext | None:
        if mac == DOCTOR_MAC:  # it asks what a machine would get, and is none
            return self._make(self._engine.coordinator.choice(mac).label, mac, "0" * 32)
        LoopBreaker(self._engine, self._settings.boot, foreign_labels(self._labels)).check(mac)
        choice, effects = self._engine.coordinator.boot_choice(mac, self._engine.now())
        self._engine.run(effects)
        if not choice.token:
            log.warning("no boot configuration", node=mac, reason=choice.why)
            return None
        node = self._engine.coordinator.nodes.get(choice.mac)
        message = f"bootd: {choice.why}" if node is not None and node.parked else ""
        return self._make(choice.label, choice.mac, choice.token, message)

    def policy(self, mac: str) -> NodePolicy:
        """What the offer decision needs to know of ``mac``. Changes nothing: who only asks for an address is no
        boot yet."""
        coordinator = self._engine.coordinator
        if mac != DOCTOR_MAC and not coordinator.admission.may_boot(mac, self._engine.now()):
            return NodePolicy(no_boot="not known here, and [nodes] unknown is ignore: bootd node approve")
        kind = self._labels[coordinator.choice(mac).label].kind
        node = coordinator.nodes.get(mac)
        expired = node is not None and 0 < node.once_until < self._engine.now()
        if self._settings.boot.prompt_seconds or expired:
            return NodePolicy(stage=False)
        # Only its configuration makes a machine known and uses a one-shot label up: both must ask for it.
        plain = node is not None and not node.once
        return NodePolicy(stage=kind is LabelKind.STAGE, disk=kind is LabelKind.LOCAL and plain)

    def check(self) -> None:
        """`OperatorError` (CONFIG) when what the settings say cannot be rendered for any node."""
        for label in self._labels:
            try:
                self._make(label, "00:00:00:00:00:00", "0" * 32)
            except ValueError as error:
                raise OperatorError(str(error), "mend it in bootd.toml", Exit.CONFIG) from None

    def missing_artefacts(self) -> list[str]:
        """Boot files that are not there."""
        folder = self._settings.boot_dir
        return [name for name in ARTEFACTS if not (folder / name).is_file()]

    def _has_menu(self) -> bool:
        return all((self._settings.boot_dir / name).is_file() for name in MENU_MODULES)

    def _bootable(self, mac: str, chosen: str) -> Mapping[str, Label]:
        """All labels but those of a partition that is not verified on this node. What a policy has chosen stays."""
        labels = self._labels
        if not any(label.partition for label in labels.values()):
            return dict(labels)  # which may change meanwhile
        try:
            contents = self._engine.contents(mac)
        except OperatorError:  # told by whoever writes there; a menu must come up all the same
            contents = []
        return {
            name: label
            for name, label in labels.items()
            if not label.partition or name == chosen or is_verified(contents, label.partition)
        }

    def _make(self, label: str, mac: str, token: str, message: str = "") -> RenderContext:
        settings = self._settings
        return RenderContext(
            server_host=self._address,
            http_port=settings.server.http_port,
            bulk_port=settings.server.bulk_port,
            labels=self._bootable(mac, label),
            label=label,
            mac=mac,
            token=token,
            console=settings.boot.console,
            prompt_seconds=settings.boot.prompt_seconds,
            message=plain(message),
            menu_module=not settings.boot.prompt_seconds or self._has_menu(),
        )
