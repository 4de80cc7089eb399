"""A policy that names an image of the store knows the sessions that it has made."""

import pytest

from bootd.drivers.kiosk import sends
from bootd.wire.stored import image_source

ID = "ab" * 32


@pytest.mark.parametrize(
    ("source", "image", "is_its"),
    [
        ("/srv/golden.img", "/srv/golden.img", True),
        ("/srv/golden.img", "/srv/other.img", False),
        (image_source("golden", ID), "golden", True),
        (image_source("golden", ID), "golden:exam", True),
        (image_source("golden", ID), "image:golden", True),
        (image_source("golden", ID), image_source("golden", ID), True),
        (f"{image_source('golden', ID)}#7", "golden#7", True),
        (image_source("golden2", ID), "golden", False),
        (image_source("golden", ID), "gold", False),
        (image_source("golden", ID), "/srv/golden", False),
    ],
)
def test_whose_session_it_is(source: str, image: str, is_its: bool) -> None:
    assert sends(source, image) is is_its
