"""Boot configuration: what each loader is told, and that nothing an operator writes breaks out of its place."""

import shlex
import subprocess
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootd.netboot import render
from bootd.netboot.labels import BUILT_IN, Label, LabelKind, foreign_labels, problem
from bootd.netboot.render import RenderContext

MAC = "52:54:00:12:34:56"
LABELS = {label.name: label for label in BUILT_IN}
OWN = Label("own", LabelKind.KERNEL, "Our kernel", "quiet root=/dev/sda1", "own/vmlinuz", "own/initrd")


def context(label: str, **changes: object) -> RenderContext:
    base = RenderContext("10.9.0.2", 7467, 7468, LABELS, "local", MAC, "ab" * 16, "console=ttyS0,115200")
    return replace(base, label=label, **changes)  # type: ignore[arg-type]


WORDS = [
    *("automatic=method:ka,interface:auto,network:dhcp", "rescue", "kamethod"),
    *("bootd.server=10.9.0.2:7467", f"bootd.node={MAC}", f"bootd.token={'ab' * 16}"),
    *("BOOTIF=01-52-54-00-12-34-56", "console=ttyS0,115200"),
]
KERNEL = "http://10.9.0.2:7468/stage1/vmlinuz"
INITRD = "http://10.9.0.2:7468/stage1/initrd.img"


def commands(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line and not line.startswith("#")]


def test_stage_label_for_pxelinux() -> None:
    lines = commands(render.pxelinux(context("kamethod")))
    assert ["DEFAULT", "kamethod"] in lines
    assert ["PROMPT", "0"] in lines
    start = lines.index(["LABEL", "kamethod"])
    assert lines[start + 1 :] == [["LINUX", KERNEL], ["INITRD", INITRD], ["APPEND", *WORDS]]


def test_stage_label_for_ipxe() -> None:
    text = render.ipxe(context("kamethod"))
    assert text.startswith("#!ipxe\n")
    lines = commands(text)
    kernel = next(line for line in lines if line[0] == "kernel")
    assert kernel[1:3] == [KERNEL, "initrd=initrd.img"]  # the name by which a UEFI kernel finds its initrd
    assert kernel[3 : 3 + len(WORDS)] == WORDS
    assert next(line for line in lines if line[0] == "initrd")[:4] == ["initrd", "--name", "initrd.img", INITRD]


def test_grub_says_it_where_no_stage_can_run() -> None:
    text = render.grub(context("kamethod"))
    stages = [label for label in LABELS.values() if label.kind is LabelKind.STAGE]
    assert text.count("bootd: no stage is built for $grub_cpu") == len(stages)
    try:
        subprocess.run(["grub-script-check"], input=text.encode(), check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("grub-script-check is not installed (grub-common)")


def test_stage_label_for_grub() -> None:
    text = render.grub(context("kamethod"))
    line = next(
        line for line in text.splitlines() if line.strip().startswith("linux (tftp,10.9.0.2)") and "kame" in line
    )
    assert shlex.split(line)[2:] == WORDS


def test_operators_own_kernel_gets_no_token() -> None:
    labels = {**LABELS, "own": OWN}
    for renderer in (render.pxelinux, render.ipxe):
        text = renderer(context("own", labels=labels))
        assert "http://10.9.0.2:7468/own/vmlinuz" in text
        assert "http://10.9.0.2:7468/own/initrd" in text
        assert "bootd.token" not in text
        assert "quiet root=/dev/sda1" in text


def test_local_label() -> None:
    assert "LOCALBOOT 0" in render.pxelinux(context("local"))
    script = render.ipxe(context("local")).splitlines()
    jump = next(line for line in script if line.startswith("iseq ${platform} efi"))
    target = jump.split()[5]
    assert script.index(f":{target}") > script.index(jump)
    assert any("http://10.9.0.2:7468/local.efi" in line for line in script[script.index(f":{target}") :])
    assert any("0x80" in line for line in script[script.index(jump) : script.index(f":{target}")])


def test_every_jump_of_a_script_has_its_target_once() -> None:
    text = render.ipxe(context("local", labels={**LABELS, "own": OWN}, prompt_seconds=5))
    targets = [line[1:] for line in text.splitlines() if line.startswith(":")]
    assert len(targets) == len(set(targets))
    for words in commands(text):
        for before, word in pairwise(words):
            if before == "goto" and word != "${target}":
                assert word in targets
        if words[0] == "item":
            assert words[1] in targets


def test_menu_shows_every_label_for_so_long() -> None:
    labels = {**LABELS, "own": OWN}
    pxelinux = commands(render.pxelinux(context("local", labels=labels, prompt_seconds=7)))
    assert ["TIMEOUT", "70"] in pxelinux  # tenths of a second
    assert [line[1] for line in pxelinux if line[0] == "LABEL"] == list(labels)
    ipxe = render.ipxe(context("local", labels=labels, prompt_seconds=7))
    assert "choose --default local --timeout 7000 target" in ipxe  # milliseconds
    grub = render.grub(context("local", labels=labels, prompt_seconds=7))
    assert "set timeout=7" in grub
    assert grub.count("menuentry ") == len(labels)


def test_entry_scripts_bring_the_mac_along() -> None:
    assert "http://10.9.0.2:7467/boot/boot.ipxe?mac=${mac}" in render.autoexec("10.9.0.2", 7467)
    assert "${net_default_mac}" in render.grub_entry()


@pytest.mark.parametrize(
    "changes",
    [
        {"mac": "52-54-00-12-34-56"},
        {"mac": MAC.upper().replace("5", "A")},
        {"token": "not hex"},
        {"token": ""},
        {"server_host": "10.9.0.2\nAPPEND x"},
        {"console": "console=ttyS0\nLABEL x"},
        {"label": "nosuch"},
        {"labels": {**LABELS, "bad": replace(OWN, name="bad", title="a\nLABEL b")}},
        {"labels": {**LABELS, "long": replace(LABELS["kamethod"], name="long", append="x " * 700)}},
        {"labels": {**LABELS, "long": replace(OWN, name="long", append="x" * 1501)}},
    ],
)
def test_context_refuses_what_does_not_fit(changes: dict[str, object]) -> None:
    if "labels" in changes and "long" in changes["labels"]:  # type: ignore[operator]
        changes = {**changes, "console": "x" * 1500}
    with pytest.raises(ValueError, match=r"."):
        context(changes.pop("label", "local"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "label",
    [
        replace(OWN, name="two words"),
        replace(OWN, title="price: ${net0/ip}"),
        replace(OWN, title="it's"),
        replace(OWN, title="Überraschung"),
        replace(OWN, append="a && reboot"),
        replace(OWN, append="a || shell"),
        replace(OWN, append="x=${password}"),
        replace(OWN, append="quiet\nLABEL evil"),
        replace(OWN, append="it's"),
        replace(OWN, kernel="../etc/shadow"),
        replace(OWN, kernel="http://elsewhere/kernel"),
        replace(OWN, initrd="a b"),
        replace(OWN, kernel=""),
    ],
)
def test_labels_that_no_loader_could_carry(label: Label) -> None:
    assert problem(label)


def test_built_in_labels_are_fine() -> None:
    assert [problem(label) for label in (*BUILT_IN, OWN)] == [""] * (len(BUILT_IN) + 1)


@given(st.text(max_size=70), st.text(max_size=80))
def test_whatever_is_accepted_stays_in_its_line(title: str, append: str) -> None:
    label = Label("own", LabelKind.KERNEL, title, append, "own/vmlinuz")
    if problem(label):
        return
    made = context("own", labels={"own": label}, prompt_seconds=3)
    plain = context("own", labels={"own": replace(label, title="t", append="a")}, prompt_seconds=3)
    for renderer in (render.pxelinux, render.ipxe, render.grub):
        assert len(renderer(made).splitlines()) - len(renderer(plain).splitlines()) in (0, -1)
        assert "${" not in renderer(made).replace("${target}", "").replace("${platform}", "")
    assert shlex.split(render.grub(made).splitlines()[3].strip())[0] == "menuentry"


def test_label_of_a_system() -> None:
    """It is named to stage1, and only a stage can boot it."""
    label = Label("mini", LabelKind.STAGE, append="automatic=method:ka", system="mini")
    assert problem(label) == ""
    made = context("mini", labels={**LABELS, "mini": label})
    assert made.command_line(label).split()[:2] == ["automatic=method:ka", "bootd.system=mini"]
    assert "bootd.system" not in made.command_line(LABELS["kamethod"])
    assert "bootd stage list" in problem(replace(label, kind=LabelKind.LOCAL))
    assert "bootd stage list" in problem(replace(label, system="a b"))
    assert foreign_labels({"mini": label, **LABELS}) >= {"mini"}
