"""Schemes as files: our TOML form, and KA's desc beside it. Errors name the line."""

import re
import tomllib
from typing import Any

from bootd.wire.scheme import desc
from bootd.wire.scheme.encoding import MAX_SCHEME, as_object, of_object
from bootd.wire.scheme.model import Scheme, SchemeError

_IS_TOML = re.compile(r"^\s*(\[\[|table\s*=|boot_code\s*=)", re.MULTILINE)
_ORDER = ("partition", "array", "group", "volume")


def parse(text: str, *, mend: bool = False) -> Scheme:
    """The scheme in a file of either form; ``mend``: see `desc.parse`. `SchemeError` names the line."""
    if len(text) > MAX_SCHEME:
        raise SchemeError(f"{len(text)} characters, at most {MAX_SCHEME}")
    if not _IS_TOML.search(text):
        return desc.parse(text, mend=mend)
    try:
        value = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SchemeError(f"TOML: {error}") from None
    try:
        return of_object(value)
    except SchemeError as error:
        line = _line_of(text, error.list_name, error.index)
        if line:
            raise SchemeError(f"line {line}: {error.list_name}: {error.text}") from None
        raise


def _line_of(text: str, list_name: str, index: int) -> int:
    """Where the ``index``-th entry of a list begins, from 1; 0 when that is not seen."""
    header = re.compile(rf"\s*\[\[\s*{list_name}\s*\]\]")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if list_name and header.match(line)]
    return lines[index] if 0 <= index < len(lines) else 0


def format_toml(scheme: Scheme) -> str:
    """``scheme`` as a file that `parse` reads."""
    value = as_object(scheme)
    lines = [f"{key} = {_quoted(value[key])}" for key in ("table", "boot_code") if key in value]
    for name in _ORDER:
        for one in value.get(name, ()):
            lines += ["", f"[[{name}]]"]
            lines += [f"{key} = {_quoted(found)}" for key, found in one.items()]
    return "\n".join(lines) + "\n"


def _quoted(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return "[" + ", ".join(_quoted(one) for one in value) + "]"
    escaped = "".join(f"\\u{ord(one):04x}" if one in '"\\' or ord(one) < 32 else one for one in str(value))
    return f'"{escaped}"'
