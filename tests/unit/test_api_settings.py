"""[api] in bootd.toml, and --server on the command line: what is refused, and what is said about it."""

import http.client
from pathlib import Path

import pytest

from bootd.cli.main import main
from bootd.cli.remote import Remote
from bootd.config import parse
from bootd.errors import Exit, OperatorError

PAIR = 'certificate = "/c.pem"\nkey = "/k.pem"\n'


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ('address = "0.0.0.0"\n', "without TLS"),
        ('address = "::"\n', "without TLS"),
        ('address = "192.0.2.1"\n', "without TLS"),
        ('address = "server.example"\n', "is not an IP address"),
        ('address = "192.0.2.1"\ncertificate = "/c.pem"\n', "go together"),
        ('key = "/k.pem"\n', "go together"),
        ('certificate = "c.pem"\nkey = "/k.pem"\n', "absolute"),
        (f"port = 7467\n{PAIR}", "port of its own"),
        ("requests_per_second = 0\n", "requests_per_second"),
    ],
)
def test_settings_that_are_refused(lines: str, word: str) -> None:
    with pytest.raises(OperatorError) as raised:
        parse(f"[api]\nenabled = true\n{lines}")
    assert raised.value.code is Exit.CONFIG
    assert word in str(raised.value)


@pytest.mark.parametrize("lines", ["", 'address = "::1"\n', 'address = "127.0.0.53"\n', f'address = "::"\n{PAIR}'])
def test_settings_that_are_taken(lines: str) -> None:
    assert parse(f"[api]\nenabled = true\n{lines}").api.enabled


def test_it_is_off_by_default() -> None:
    assert not parse("").api.enabled


def secret(folder: Path, text: str = "bootd_x\n", mode: int = 0o600) -> Path:
    path = folder / "token"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "url",
    [
        "",
        "server",
        "server:7469",
        "ftp://server",
        "https://",
        "https://server/api",
        "https://u@server",
        "https://s:x",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(OperatorError) as raised:
        Remote(url, None).connect(1)
    assert raised.value.code is Exit.USAGE


@pytest.mark.parametrize("url", ["http://192.0.2.1:7469", "http://server", "http://127.0.0.1.example"])
def test_a_token_never_leaves_this_machine_in_the_clear(url: str) -> None:
    with pytest.raises(OperatorError, match="without TLS"):
        Remote(url, None).connect(1)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://server", "server", 7469),
        ("https://[2001:db8::1]:444/", "2001:db8::1", 444),
        ("http://127.0.0.1:1", "127.0.0.1", 1),
        ("http://localhost", "localhost", 7469),
    ],
)
def test_where_it_connects(url: str, host: str, port: int) -> None:
    connection = Remote(url, None).connect(1)
    assert (connection.host, connection.port) == (host, port)
    assert isinstance(connection, http.client.HTTPSConnection) is url.startswith("https")


def test_the_token_of_a_file(tmp_path: Path) -> None:
    assert Remote("", secret(tmp_path)).headers() == {"Authorization": "Bearer bootd_x"}
    assert Remote("", secret(tmp_path, mode=0o640)).headers()


@pytest.mark.parametrize(
    ("text", "mode"), [("bootd_x", 0o604), ("", 0o600), ("a b", 0o600), ("a\nb", 0o600), ("ü", 0o600)]
)
def test_files_that_hold_no_token(tmp_path: Path, text: str, mode: int) -> None:
    with pytest.raises(OperatorError) as raised:
        Remote("", secret(tmp_path, text, mode)).headers()
    assert raised.value.code is Exit.INPUT


def test_nobody_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--server", "http://127.0.0.1:1", "--token-file", str(secret(tmp_path)), "state"])
    assert ended.value.code == Exit.UNREACHABLE
    assert "does not answer at http://127.0.0.1:1" in capsys.readouterr().err


def test_a_token_file_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--server", "http://127.0.0.1:1", "state"])
    assert ended.value.code == Exit.USAGE
    assert "--token-file" in capsys.readouterr().err


def test_a_token_that_cannot_be_kept_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is opened before anything is asked: there is no daemon here, and that is not the complaint."""
    there = secret(tmp_path)
    words = ["--socket", str(tmp_path / "s"), "token", "create", "a", "--scope", "read", "--out"]
    with pytest.raises(SystemExit) as ended:
        main([*words, str(there)])
    assert ended.value.code == Exit.INPUT
    assert there.read_text() == "bootd_x\n"
    with pytest.raises(SystemExit) as ended:
        main([*words, str(tmp_path / "new")])
    assert ended.value.code == Exit.UNREACHABLE
    assert not (tmp_path / "new").exists()
    capsys.readouterr()
