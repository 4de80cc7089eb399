"""Old commands in their own words: what each becomes, that bootd understands it, and that the docs say the same."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bootd.cli.main import cli, main
from bootd.cli.old_words import KA_OPTIONS, OLD_WORDS, Room, tables
from bootd.errors import Exit, OperatorError

ROOT = Path(__file__).parents[2]
ROOM = Room("rifpc", "golden", lambda: ("5e1f0c2a", "night"))
# Words as the documents of CloneSys and ka-deploy use them, with what they become.
CASES = [
    ("rclone sda5 WinNTEduc yourname client1", ["restore WinNTEduc --part sda5 client1"]),
    ("rclone sda5 default yourname 3 4 5", ["restore @last --part sda5 rifpc3 rifpc4 rifpc5"]),
    (
        "restore yourname -d sda6 sda7 -h 10 12 14",
        ["restore @last --part sda6 --part sda7 rifpc10 rifpc12 rifpc14"],
    ),
    (
        "rbackup /dev/sda5 WinNTEducNew client1 yourname SP6",
        ["backup client1 WinNTEducNew --part sda5 --comment SP6 --user yourname"],
    ),
    ("initinstall hostname yourname classroom", ["init hostname --layout classroom"]),
    (
        "lockimage sda5 client1 anna exam",
        ["lock add client1 --partition 5 --owner anna --reason exam"],
    ),
    ("unlockimage nvme0n1p5 7 anna bert", ["lock remove rifpc7 --partition 5"]),
    ("state", ["state"]),
    ("lastlogs client1 2", ["logs client1", "logs rifpc2"]),
    ("lastlogs -c clone client1", ["logs client1 --clear"]),
    (
        "waitfinished me@example.org",
        ["wait 5e1f0c2a --notify mailto:me@example.org", "wait night --notify mailto:me@example.org"],
    ),
    ("waitfinished", ["wait 5e1f0c2a", "wait night"]),
    ("clonesyslog", ["audit"]),
    ("imagedesc", ["image list"]),
    ("clustermap", ["map"]),
    ("config client1", ["node show client1"]),
    ("mapname 3", ["node find rifpc3"]),
    ("rex client1 lsblk -J", ["exec client1 -- lsblk -J"]),
    ("dolly -s -v -f dolly.cfg", ["dolly -s -v -f dolly.cfg"]),
    ("dollyS -v -f dolly.cfg", ["dolly -S -v -f dolly.cfg"]),
    ("dollyC --allow /dev/sda", ["dolly --allow /dev/sda"]),
    ("ka-d.sh -n 4", ["deploy golden any --disk only --expect 4"]),
    (
        "ka-d.sh -n 3 -p sda /tmp/desc -X sdb|sdc -x /tmp|/var/tmp -r 'grub --with=ata_piix --with=piix'",
        [
            "deploy golden any --disk only --expect 3 --layout /tmp/desc --protect-disk sdb --protect-disk sdc"
            " --exclude /tmp --exclude /var/tmp --boot-loader grub --with ata_piix --with piix"
        ],
    ),
    (
        "ka-d.sh -n 3 -X sdb|sdc -r grub -d 5 -s kainstall1",
        ["deploy golden any --disk only --expect 3 --delay 0.5 --name kainstall1"],
    ),
]
OPTIONS = {"-n", "-x", "-X", "-m", "-M", "-D", "-p", "-d", "-r", "-s", "-e"}


@pytest.mark.parametrize(("old", "wanted"), CASES, ids=[case[0] for case in CASES])
def test_what_it_becomes(old: str, wanted: list[str]) -> None:
    name, *words = shlex.split(old.replace("|", "\\|"))
    translate = OLD_WORDS[name].translate
    assert translate is not None
    made = translate(words, ROOM)
    assert [" ".join(command) for command in made] == wanted
    for command in made:
        _understood(command)


def _understood(words: list[str]) -> None:
    """bootd's own commands take these words; nothing is run."""
    group: click.Group = cli
    context = click.Context(cli, info_name="bootd")
    rest = list(words)
    while True:
        command = group.get_command(context, rest[0])
        assert command is not None, f"there is no {' '.join(words)}"
        if not isinstance(command, click.Group):
            break
        group, rest = command, rest[1:]
    command.make_context(rest[0], rest[1:], parent=context)


def test_every_word_is_tried() -> None:
    tried = {case[0].split(" ")[0] for case in CASES}
    assert tried == {name for name, word in OLD_WORDS.items() if word.translate is not None}
    wanted = "clone rclone backup rbackup initinstall restore lockimage unlockimage state lastlogs waitfinished"
    assert set(f"{wanted} clustermap config rex ka-d.sh".split()) <= OLD_WORDS.keys()
    assert {option.name for option in KA_OPTIONS} == OPTIONS


@pytest.mark.parametrize(
    "old",
    [
        "rclone sda5 default anna",
        "rclone sda default anna lab1",
        "rclone sda5 default anna --yes",
        "rclone sda5 --yes anna lab1",
        "rclone ../x default anna lab1",
        "restore anna -d sda5 lab1",
        "restore anna -h lab1 -d sda5",
        "lockimage sda5 lab1 anna two words",
        "lastlogs",
        "state lab1",
        "rex lab1",
        "initinstall lab1 anna",
        "ka-d.sh -n",
        "ka-d.sh -d soon",
        "ka-d.sh -z",
        "ka-d.sh -x /tmp",
        "ka-d.sh -p sda /tmp/desc -r lilo",
    ],
)
def test_words_that_do_not_fit_are_refused(old: str) -> None:
    name, *words = shlex.split(old.replace("|", "\\|"))
    translate = OLD_WORDS[name].translate
    assert translate is not None
    with pytest.raises(OperatorError) as caught:
        translate(words, ROOM)
    assert caught.value.code is Exit.USAGE
    assert caught.value.hint


def test_ids_without_a_prefix_are_the_daemons_and_ka_needs_an_image() -> None:
    rclone, ka = OLD_WORDS["rclone"].translate, OLD_WORDS["ka-d.sh"].translate
    assert rclone is not None
    assert ka is not None
    assert rclone(["sda5", "default", "anna", "3"], Room())[0][-1] == "3"
    with pytest.raises(OperatorError, match="bootd clones images"):
        ka(["-n", "3"], Room("x"))


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["--socket", "/nonexistent/bootd.sock", *words])
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_by_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "compat", "--print", "--prefix=lab", "lockimage", "sda5", "3", "anna", "the exam")
    assert (code, out) == (0, "bootd lock add lab3 --partition 5 --owner anna --reason 'the exam'\n")
    code, _, err = run(capsys, "compat", "state")
    assert code == Exit.UNREACHABLE, "it was run"
    assert err.startswith("-> bootd state\n")
    code, _, err = run(capsys, "compat", "clone", "sda5", "win", "anna")
    assert code == Exit.USAGE
    assert "bootd restore IMAGE --part DEVICE HOST" in err
    code, _, err = run(capsys, "compat", "nonsense")
    assert (code, "known: clone, rclone" in err) == (Exit.USAGE, True)


def test_a_link_with_the_old_name(tmp_path: Path) -> None:
    link = tmp_path / "lockimage"
    link.symlink_to(Path(sys.executable).parent / "bootd")
    done = subprocess.run([link, "sda", "3", "anna", "exam"], capture_output=True, text=True, timeout=30)
    assert done.returncode == Exit.USAGE
    assert "'sda' is no partition" in done.stderr
    other = tmp_path / "something"
    other.symlink_to(Path(sys.executable).parent / "bootd")
    done = subprocess.run([other, "--version"], capture_output=True, text=True, timeout=30)
    assert done.stdout.startswith("bootd, version")


def test_the_docs_have_the_table() -> None:
    text = (ROOT / "docs/migrating.md").read_text()
    assert tables() in text, "docs/migrating.md: put in what bootd.cli.old_words.tables() says"
    assert re.search(r"bootd compat", text)
