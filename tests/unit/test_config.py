"""bootd.toml: what is refused says where, and the defaults are usable."""

from pathlib import Path

import pytest

from bootd import config
from bootd.errors import Exit, OperatorError
from bootd.netboot.labels import LabelKind


def test_defaults() -> None:
    settings = config.parse("")
    assert settings.boot.default == "local"
    assert settings.boot_dir == Path("/var/lib/bootd/boot")
    assert settings.socket_path == Path("/run/bootd/bootd.sock")
    assert {"local", "kamethod", "rescue"} <= settings.labels.keys()


def test_everything_that_can_be_set() -> None:
    text = """
        [server]
        interface = "eth1"
        address = "192.0.2.7"
        boot_dir = "/srv/boot"
        [dhcp]
        proxy = false
        [tftp]
        max_sessions = 10
        [boot]
        default = "mine"
        [session]
        silence_seconds = 2
        [[label]]
        name = "mine"
        kind = "kernel"
        kernel = "own/vmlinuz"
        [[label]]
        name = "rescue"
        title = "Ours"
        [[node]]
        mac = "52:54:00:AA:00:01"
        name = "lab1"
        label = "mine"
        switch = "rack 2"
    """
    settings = config.parse(text)
    assert settings.boot_dir == Path("/srv/boot")
    assert settings.session.silence_seconds == 2.0
    assert settings.labels["mine"].kind is LabelKind.KERNEL
    assert settings.labels["rescue"].title == "Ours"
    assert settings.dhcp.proxy is False
    assert settings.node[0].switch == "rack 2"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server]\nhttp_prot = 1", "http_prot"),
        ("[server]\nhttp_prot = 1", "$.server"),
        ("[surprise]", "surprise"),
        ("[server]\nhttp_port = 70000", "$.server.http_port"),
        ("[server]\nhttp_port = 'x'", "$.server.http_port"),
        ("[server]\nhttp_port = 7468", "both 7468"),
        ("[server]\naddress = '300.1.1.1'", "server.address"),
        ("[server]\naddress = '::1'", "server.address"),
        ("[server]\nrun_dir = 'run'", "server.run_dir"),
        ("[server]\nstate_dir = ''", "server.state_dir"),
        (f"[server]\nrun_dir = '/{'x' * 120}'", "server.run_dir"),
        ("[session]\nattempts = 0", "$.session.attempts"),
        ("[session]\nsilence_seconds = 0", "$.session.silence_seconds"),
        ("[boot]\ndefault = 'nonesuch'", "nonesuch"),
        ("[[label]]\nname = 'a b'", "a b"),
        ("[[label]]\nname = 'x'\nkind = 'kernel'", "kernel is missing"),
        ("[[label]]\nname = 'x'\nkind = 'magic'", "$.label[0].kind"),
        ("[[label]]\nname = 'x'\ntitle = 'a;b'", "label x"),
        ("[[node]]\nmac = 'x'\nname = 'a'", "$.node[0].mac"),
        ("[[node]]\nmac = '52:54:00:00:00:01'\nname = 'a b'", "$.node[0].name"),
        ("[[node]]\nmac = '52:54:00:00:00:01'\nname = 'a'\nlabel = 'nonesuch'", "nonesuch"),
        (
            "[[node]]\nmac = '52:54:00:00:00:0a'\nname = 'a'\n[[node]]\nmac = '52:54:00:00:00:0A'\nname = 'b'",
            "52:54:00:00:00:0a",
        ),
        ("not toml", "line 1"),
    ],
)
def test_what_is_wrong_is_named(text: str, named: str) -> None:
    with pytest.raises(OperatorError) as raised:
        config.parse(text, "some.toml")
    assert raised.value.code is Exit.CONFIG
    assert raised.value.message.startswith("some.toml: ")
    assert named in raised.value.message
    assert raised.value.hint


def test_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "bootd.toml"
    monkeypatch.setattr(config, "DEFAULT_PATH", file)
    assert config.load(None)[1] == "defaults"
    file.write_text("[boot]\nprompt_seconds = 5\n")
    settings, source = config.load(None)
    assert settings.boot.prompt_seconds == 5
    assert source == str(file)
    file.write_bytes(b"[boot]\nconsole = '\xff'")
    for path in (file, tmp_path / "missing", tmp_path):
        with pytest.raises(OperatorError) as raised:
            config.load(path)
        assert raised.value.code is Exit.CONFIG
        assert str(path) in raised.value.message
