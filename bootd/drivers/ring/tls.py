"""The certificates of a ring by hand, as the operator names them."""

from bootd.errors import Exit, OperatorError
from bootd.member.tls import TlsError, TlsSettings, load

__all__ = ["TlsSettings", "load_tls"]


def load_tls(certificate: str | None, key: str | None, authority: str | None) -> TlsSettings | None:
    """From three PEM files; None when none is named. `OperatorError` when one is missing or cannot be used."""
    if certificate is None and key is None and authority is None:
        return None
    if certificate is None or key is None or authority is None:
        raise OperatorError("TLS needs three files", "say --tls-cert, --tls-key and --tls-ca", Exit.USAGE)
    try:
        return load(certificate, key, authority)
    except TlsError as error:
        raise OperatorError(str(error), "docs/ring.md shows how to make certificates", Exit.INPUT) from None
