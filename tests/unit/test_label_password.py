"""Labels with a password: hashes as other programs make and check them, menus as they were read by people.

``tests/unit/golden`` has one menu for each loader. Whoever changes the rendering looks at them again.
"""

import io
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bootd.cli.main import main
from bootd.config import parse
from bootd.errors import Exit, OperatorError
from bootd.netboot import passwords, render
from bootd.netboot.labels import Label, LabelKind
from bootd.netboot.render import RenderContext

GOLDEN = Path(__file__).parent / "golden"
# Made by grub-mkpasswd-pbkdf2 (Debian 12, grub-common 2.06) and by openssl passwd -6; the password is "let me in".
GRUB_HASH = (
    "grub.pbkdf2.sha512.10000.9D9A000C38B5883CA410914D5D4C83D39D8E38E51FC760E5325184A182302B94."
    "738EEE8097933FE7EAF67C883C0E3B177706FD61B7FA2777CE5D468E0F545854"
    "288285A3A99EEDE277DFB042148AE98A16F0E18C5E5A4D826E8554E945C66CA3"
)
CRYPT_HASH = "$6$bootdsalt$6v4Mzs/BhiRbT1ocTSU2sRbF/f4Sz.xzALVww8Bob7CMlcrp1jx8/Mdt8lZVbVy4sFRIzoT6/Yb7S7Kee0NoV."
LOCAL = Label("local", LabelKind.LOCAL, "Boot from the local disk")
LAB = Label("lab", LabelKind.KERNEL, "Lab system", "quiet", "lab/vmlinuz", "lab/initrd")
SECRET = Label("exam", LabelKind.KERNEL, "Exam", "ro", "exam/vmlinuz", password=(GRUB_HASH, CRYPT_HASH))
HIDDEN = Label("wipe", LabelKind.KERNEL, "Wipe", "", "wipe/vmlinuz", hide=True)
LABELS = {label.name: label for label in (LOCAL, LAB, SECRET, HIDDEN)}
RENDERERS = {"pxelinux": render.pxelinux, "ipxe": render.ipxe, "grub": render.grub}


def context(label: str = "local", **changes: object) -> RenderContext:
    base = RenderContext("10.9.0.2", 7467, 7468, LABELS, label, "52:54:00:12:34:56", "ab" * 16, prompt_seconds=10)
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("loader", RENDERERS)
def test_menu_as_it_was_read(loader: str) -> None:
    assert RENDERERS[loader](context()) == (GOLDEN / f"password.{loader}").read_text()


def test_hash_of_grubs_own_program_is_checked() -> None:
    assert passwords.verify("let me in", [GRUB_HASH])
    for wrong in ("", "let me in ", "Let me in", "let me i", "x" * 1000):
        assert not passwords.verify(wrong, [GRUB_HASH])
    assert not passwords.verify("let me in", []), "nothing protects nothing"
    try:
        made = subprocess.run(
            ["grub-mkpasswd-pbkdf2", "-c", "2000"], input="a b\na b\n", capture_output=True, text=True, check=True
        ).stdout
    except FileNotFoundError:
        pytest.skip("grub-mkpasswd-pbkdf2 is not installed (grub-common)")
    assert passwords.verify("a b", [made.split()[-1]])


def test_hashes_that_bootd_makes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """GRUB's is judged by the one above; crypt's by perl, which asks libcrypt."""
    monkeypatch.setattr("sys.stdin", io.StringIO("pass word 7\n"))
    with pytest.raises(SystemExit) as ended:
        main(["label", "password", "--json"])
    assert ended.value.code == Exit.OK
    printed = capsys.readouterr()
    assert "pass word 7" not in printed.out + printed.err
    own, crypt = json.loads(printed.out)["password"]
    assert passwords.verify("pass word 7", [own])
    assert passwords.problem([own, crypt]) == ""
    script = "print crypt($ARGV[0], $ARGV[1])"
    judged = subprocess.run(
        ["perl", "-e", script, "pass word 7", crypt], capture_output=True, text=True, check=True
    )
    assert judged.stdout == crypt
    for text in ("", "\n", "x" * 65 + "\n", "\u00fc\n", "a\tb\n"):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        with pytest.raises(SystemExit) as ended:
            main(["label", "password"])
        assert ended.value.code == Exit.USAGE


def test_what_it_prints_goes_into_the_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one two\n"))
    with pytest.raises(SystemExit):
        main(["label", "password"])
    settings = parse(f'[[label]]\nname = "own"\nhide = true\n{capsys.readouterr().out}')
    label = settings.labels["own"]
    assert passwords.verify("one two", label.password)
    assert label.hide


@pytest.mark.parametrize(
    "text",
    ['"secret"', '["$6$abc$short"]', f'["{CRYPT_HASH}"]', '"grub.pbkdf2.sha512.1.00.00"', '["a", "b", "c"]'],
)
def test_what_is_no_hash_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(OperatorError, match="label own: ") as caught:
        parse(f'[[label]]\nname = "own"\npassword = {text}')
    assert caught.value.code is Exit.CONFIG
    assert "bootd label password" in caught.value.message
    assert "secret" not in str(caught.value)


def test_grub_understands_its_menu() -> None:
    text = render.grub(context())
    try:
        subprocess.run(["grub-script-check"], input=text.encode(), check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("grub-script-check is not installed (grub-common)")
    entries = re.findall(r"^menuentry '([^']*)' --id (\S+)(.*) \{$", text, re.MULTILINE)
    assert [(entry[1], entry[2]) for entry in entries] == [
        ("local", " --unrestricted"),
        ("lab", " --unrestricted"),
        ("exam", " --users exam"),
    ]
    assert text.index("password_pbkdf2 exam") < text.index("menuentry 'Exam'")
    assert 'superusers="_bootd"' in text
    assert "password_pbkdf2 _bootd" not in text, "nobody is superuser"


@pytest.mark.parametrize("loader", RENDERERS)
def test_a_policy_needs_no_password_and_shows_what_is_hidden(loader: str) -> None:
    """Set by `bootd label set exam --once`, it boots unattended."""
    for seconds in (0, 10):
        text = RENDERERS[loader](context("exam", prompt_seconds=seconds))
        assert "exam/vmlinuz" in text
        assert not re.search(r"PASSWD|password_pbkdf2|login", text), "it is the only one that had a password"
        assert "wipe" not in text
        assert "wipe/vmlinuz" in RENDERERS[loader](context("wipe", prompt_seconds=seconds))
    assert "wipe" not in RENDERERS[loader](context())


def test_ipxe_learns_of_the_entry_only_with_its_password() -> None:
    text = render.ipxe(context())
    assert "exam/vmlinuz" not in text
    assert "unlock.ipxe##params" in text
    assert "exam/vmlinuz" in render.ipxe(context("exam", prompt_seconds=0))


def test_pxelinux_leaves_out_what_nothing_there_can_check() -> None:
    for made in (
        context(menu_module=False),
        context(labels={**LABELS, "exam": replace(SECRET, password=(GRUB_HASH,))}),
    ):
        text = render.pxelinux(made)
        assert "exam" not in text
        assert "PROMPT 1" in text
        assert "LABEL lab" in text


def test_without_passwords_menus_are_what_they_were() -> None:
    plain = {name: label for name, label in LABELS.items() if name != "exam"}
    assert "UI " not in render.pxelinux(context(labels=plain))
    assert "superusers" not in render.grub(context(labels=plain))
    assert "login" not in render.ipxe(context(labels=plain))
