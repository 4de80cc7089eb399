"""MAC addresses behind IPv6 addresses."""

import pytest

from bootd.drivers.dhcp.neighbours import neighbour


@pytest.mark.parametrize(
    ("address", "mac"),
    [
        ("fe80::3656:78ff:fe9a:bcde", "34:56:78:9a:bc:de"),  # the example of RFC 4291, appendix A
        ("fe80::3656:78ff:fe9a:bcde%eth0", "34:56:78:9a:bc:de"),
        ("fd00:9::5054:ff:fe12:3456", "52:54:00:12:34:56"),
        ("fd00:9::2", ""),  # given by hand, or at random: nothing to be learned
    ],
)
def test_modified_eui_64(address: str, mac: str) -> None:
    assert neighbour(address) == mac
