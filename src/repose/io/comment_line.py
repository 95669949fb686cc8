"""The comment line of extended XYZ: entries ``key=value`` between blanks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repose.errors import InvalidCrystalError
from repose.io.kinds import plain
from repose.io.text import logical, number

_CLOSING = {"[": "]", "{": "}", "(": ")"}
_SPECIAL = ("lattice", "pbc", "properties")


@dataclass(frozen=True)
class Comment:
    """What a comment line says.

    Attributes:
        lattice: Lattice vectors as rows in A, ``(3, 3)``, or None.
        pbc: Three logical values, or None.
        properties: The columns, as NAME:TYPE:COLUMNS and so on, or None.
        info: The other entries, values as ASE reads them.
        remarks: What the user should know about them.
    """

    lattice: NDArray[np.float64] | None
    pbc: list[bool] | None
    properties: str | None
    info: dict[str, Any]
    remarks: tuple[str, ...]


def parse_comment(line: str) -> Comment:
    """Parse a comment line.

    Args:
        line: Without its end.

    Raises:
        InvalidCrystalError: The lattice or the periodic directions have no clear meaning.
    """
    special: dict[str, str] = {}
    info: dict[str, Any] = {}
    for key, value, piece in _entries(line):
        name = key.lower()
        if name not in _SPECIAL:
            info[key] = _parse(key, value, piece)
        elif special.get(name, value) != value:
            raise InvalidCrystalError(f"it cannot be read as extxyz: its comment line has {key} twice.")
        else:
            special[name] = "T" if value is None else value
    lattice, remarks = None, tuple[str, ...]()
    if "lattice" in special:
        lattice = _lattice(special["lattice"])
        if lattice.shape == (3,):
            lattice, remarks = np.diag(lattice), ("Lattice holds three lengths; the cell is rectangular",)
    pbc = _pbc(special["pbc"]) if "pbc" in special else None
    return Comment(lattice, pbc, special.get("properties"), info, remarks)


def _entries(line: str) -> Iterator[tuple[str, str | None, str]]:
    """Key, value (None where there is none; brackets stay, quotes go) and text of every entry."""
    at = 0
    while True:
        at += len(line[at:]) - len(line[at:].lstrip())
        if at >= len(line):
            return
        start = at
        key, at = _word(line, at, stop="=")
        match = re.compile(r"\s*=\s*").match(line, at)
        if match is None:
            yield key, None, line[start:at]
            at += at == start  # a sign that no key can hold
            continue
        value, at = _word(line, match.end())
        yield key, value, line[start:at]


def _word(line: str, at: int, stop: str = "") -> tuple[str, int]:
    """A word up to a blank, a quoted text, or all between brackets; and where it ends."""
    found, start = list[str](), at
    closing: list[str] = []
    quote = ""
    while at < len(line):
        sign = line[at]
        if sign == "\\" and at + 1 < len(line):
            found.append(line[at + 1])
            at += 2
            continue
        if quote:
            if sign == quote:
                quote = ""
            else:
                found.append(sign)
        elif sign in "\"'" and (not closing or start == at):
            quote = sign
        elif closing:
            if sign == closing[-1]:
                closing.pop()
            elif sign in _CLOSING:
                closing.append(_CLOSING[sign])
            found.append(sign)
        elif sign.isspace() or sign in stop:
            break
        elif sign in _CLOSING and at == start:
            closing.append(_CLOSING[sign])
            found.append(sign)
        else:
            found.append(sign)
        at += 1
    return "".join(found), at


def _parse(key: str, value: str | None, piece: str) -> Any:
    """The value of an entry, as ASE reads it; text where ASE cannot."""
    from ase.io.extxyz import key_val_str_to_dict

    if value is not None and re.match(r"[\[{]\s*[\[{]", value):  # lists of lists, which ASE tears apart
        try:
            return np.array(json.loads(value.replace("{", "[").replace("}", "]")))
        except ValueError:
            return value
    try:
        (parsed,) = key_val_str_to_dict(piece).values()
    except ValueError:  # JSON that is none; stress and virial that are not nine numbers
        words = _words(value or "")
        numbers = [number(word) for word in words]
        return np.array(numbers) if words and None not in numbers else value
    return parsed


def _words(value: str) -> list[str]:
    return re.findall(r"[^\s,\[\]{}()\"']+", value)


def _lattice(value: str) -> NDArray[np.float64]:
    """Nine numbers ``(3, 3)``, one lattice vector after the other, or three ``(3,)``."""
    numbers = [number(word) for word in _words(value)]
    found = [v for v in numbers if v is not None]
    if len(found) < len(numbers) or len(found) not in (3, 9):
        raise InvalidCrystalError(
            "it cannot be read as extxyz: Lattice should hold nine numbers, one lattice vector after the "
            f"other; got {value[:80]!r}."
        )
    return np.array(found).reshape(-1, 3).squeeze()


def _pbc(value: str) -> list[bool]:
    words = _words(value)
    if len(words) == 1 and re.fullmatch(r"[TFtf]{3}|[01]{3}", words[0]):
        words = list(words[0])
    flags = [{"1": True, "0": False}.get(word, logical(word)) for word in words]
    found = [flag for flag in flags if flag is not None]
    if len(found) < len(flags) or len(found) not in (1, 3):
        raise InvalidCrystalError(
            f"it cannot be read as extxyz: pbc should hold three flags, T or F; got {value[:40]!r}."
        )
    return found * (3 // len(found))


def format_entry(key: str, value: Any) -> str | None:
    """An entry of a comment line from which ASE reads the same value again; None if there is no such entry.

    Numbers, logical values, vectors of them and plain words are written as they are; everything else that
    JSON has is written as ``_JSON``: text with line breaks, text that looks like a number, lists,
    dictionaries.

    Args:
        key: A word without blanks and quotes.
        value: Anything.
    """
    if isinstance(value, np.generic | np.ndarray) and np.ndim(value) == 0:
        value = value.item()
    forms = []
    if isinstance(value, bool | int | float):
        forms = [_number_text(value)]
    elif isinstance(value, str) and value.isprintable():
        forms = [value, _quoted(value)]
    elif isinstance(value, np.ndarray) and value.dtype.kind in "ifb":
        if value.shape == (3, 3) and key in ("stress", "virial"):
            forms = [_quoted(" ".join(map(_number_text, value.ravel(order="F").tolist())))]
        elif value.ndim == 1 and len(value) > 1:
            forms = [_quoted(" ".join(map(_number_text, value.tolist())))]
    try:
        forms.append(_quoted("_JSON " + json.dumps(plain(value))))
        return next((f"{key}={form}" for form in forms if _reads_back(key, form, value)), None)
    except (TypeError, RecursionError):
        return None


def _number_text(value: Any) -> str:
    return ("T" if value else "F") if isinstance(value, bool) else repr(value)


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _reads_back(key: str, form: str, value: Any) -> bool:
    """Whether ASE reads the value from the entry, with lists and arrays taken for the same."""
    from ase.io.extxyz import key_val_str_to_dict

    try:
        found = key_val_str_to_dict(f"{key}={form} end")
    except (ValueError, OverflowError, RecursionError):
        return False
    if list(found) != [key, "end"]:
        return False
    was, is_now = plain(value), plain(found[key])
    return type(was) is type(is_now) and json.dumps(was) == json.dumps(is_now)
