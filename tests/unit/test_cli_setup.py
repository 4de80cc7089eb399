"""``bootd setup`` without a network: what it writes is what the settings' own parser reads, and nothing is lost."""

from pathlib import Path

import pytest

from bootd import config
from bootd.cli.audit import moment
from bootd.cli.setup import Answers, subnet_of, write
from bootd.errors import Exit, OperatorError


def test_proxy_and_full_are_read_back_as_they_were_said() -> None:
    beside = config.parse(Answers("eth1").to_toml())
    assert beside.server.interfaces == ("eth1",)
    assert beside.dhcp.proxy
    assert beside.dhcp.pool == ()
    answers = Answers("eth1", True, "10.9.0.0/24", "10.9.0.100-10.9.0.150", "10.9.0.1", ("10.9.0.1", "10.9.0.3"))
    alone = config.parse(answers.to_toml())
    assert not alone.dhcp.proxy
    (pool,) = alone.dhcp.pool
    parsed = pool.parsed()
    assert (str(parsed), len(parsed.ranges[0])) == ("10.9.0.0/24", 51)
    assert (parsed.routers, parsed.name_servers) == (("10.9.0.1",), ("10.9.0.1", "10.9.0.3"))


@pytest.mark.parametrize("range_", ["10.8.0.1-10.8.0.9", "10.9.0.9-10.9.0.1", "ten", ""])
def test_a_range_that_makes_no_sense_is_refused_before_anything_is_written(range_: str) -> None:
    answers = Answers("eth1", True, "10.9.0.0/24", range_)
    if not range_:
        assert config.parse(answers.to_toml()).dhcp.pool[0].parsed().ranges == ()
        return
    with pytest.raises(OperatorError, match=r"dhcp\.pool") as wrong:
        config.parse(answers.to_toml())
    assert wrong.value.code is Exit.CONFIG


def test_an_interface_name_cannot_break_out_of_its_string() -> None:
    assert config.parse(Answers('a"b\\c').to_toml()).server.interfaces == ('a"b\\c',)


def test_settings_that_are_there_are_replaced_only_on_request_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "new" / "bootd.toml"
    write(path, "one", replace=False)
    assert path.read_text() == "one"
    assert path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(OperatorError, match="already") as refused:
        write(path, "two", replace=False)
    assert refused.value.code is Exit.REFUSED
    assert path.read_text() == "one"
    write(path, "two", replace=True)
    assert path.read_text() == "two"
    assert sorted(item.name for item in path.parent.iterdir()) == ["bootd.toml", "bootd.toml.old"]
    assert (path.parent / "bootd.toml.old").read_text() == "one"


def test_the_subnet_is_the_kernels() -> None:
    assert str(subnet_of("lo", "127.0.0.1")) == "127.0.0.0/8"
    with pytest.raises(OperatorError, match=r"192\.0\.2\.9"):
        subnet_of("lo", "192.0.2.9")


def test_since_is_a_date_or_an_age() -> None:
    assert moment("90m", 10_000.0) == 10_000.0 - 5400
    assert moment("2d", 1e6) == 1e6 - 172_800
    assert moment("1970-01-02T00:00+00:00", 0.0) == 86_400.0
    for wrong in ("yesterday", "-3h", "2026-13-01", "9" * 12 + "d"):
        with pytest.raises(OperatorError, match="neither a date nor an age"):
            moment(wrong, 0.0)
