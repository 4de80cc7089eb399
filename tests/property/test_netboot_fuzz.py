"""50,000 mutants for each parser of the boot plane; `make fuzz` has a million."""

from tests.property.netboot_fuzz import MAX_SECONDS, PARSERS, run


def test_nothing_but_the_peers_error_leaves_a_parser_and_no_input_is_dear() -> None:
    found, wrong = run(50_000, 20_261, 2)
    assert not wrong, wrong[0]
    assert found.keys() == PARSERS.keys()
    for name, (understood, worst) in found.items():
        assert 1000 < understood < 50_000, name  # some are sound enough to be decided on, not all
        assert worst < MAX_SECONDS
