"""Comment line of extended XYZ: entries ``key=value`` separated by blanks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repose.errors import InvalidCrystalError
from repose.io.kinds import to_jsonable
from repose.io.text import parse_logical, parse_number

# A name before an equals sign or blank; a word or quoted text before a blank.
_NAME = re.compile(r"()([^\s=\\\"'\[\]{}()]+)(?=[\s=]|\Z)")
_WORD = re.compile(r"(?:\"([^\"\\]*)\"|([^\s\\\"'\[\]{}()]+))(?=\s|\Z)")
_CLOSING = {"[": "]", "{": "}", "(": ")"}
_SPECIAL = ("lattice", "pbc", "properties")


@dataclass(frozen=True)
class Comment:
    """Contents of a comment line.

    Attributes:
        lattice: Lattice vectors as rows in A, ``(3, 3)``, or None.
        pbc: Periodic directions, or None.
        properties: Columns, as NAME:TYPE:COLUMNS and so on, or None.
        info: Other entries, with values as read by ASE.
        remarks: Messages for the user.
    """

    lattice: NDArray[np.float64] | None
    pbc: list[bool] | None
    properties: str | None
    info: dict[str, Any]
    remarks: tuple[str, ...]


def parse_comment(line: str) -> Comment:
    """Parse a comment line without its end.

    Raises:
        InvalidCrystalError: The lattice or the periodic directions are malformed.
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
    """Yield key, value (None without one; with brackets, without quotes) and text of every entry."""
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
            at += at == start  # a character that no key can have
            continue
        value, at = _word(line, match.end())
        yield key, value, line[start:at]


def _word(line: str, at: int, stop: str = "") -> tuple[str, int]:
    """Word up to a blank, quoted text, or text in brackets; and its end."""
    if simple := (_NAME if stop else _WORD).match(line, at):
        return simple[1] or simple[2] or "", simple.end()
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
    """Value of an entry as read by ASE; text if ASE fails."""
    from ase.io.extxyz import key_val_str_to_dict

    if value is not None and re.match(r"[\[{]\s*[\[{]", value):  # lists of lists, which ASE splits
        try:
            return np.array(json.loads(value.replace("{", "[").replace("}", "]")))
        except ValueError:
            return value
    try:
        (parsed,) = key_val_str_to_dict(piece).values()
    except ValueError:  # invalid JSON, or stress and virial of other than nine numbers
        words = _words(value or "")
        numbers = [parse_number(word) for word in words]
        return np.array(numbers) if words and None not in numbers else value
    return parsed


def _words(value: str) -> list[str]:
    return re.findall(r"[^\s,\[\]{}()\"']+", value)


def _lattice(value: str) -> NDArray[np.float64]:
    """Nine numbers ``(3, 3)``, lattice vectors as rows, or three ``(3,)``."""
    numbers = [parse_number(word) for word in _words(value)]
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
    flags = [{"1": True, "0": False}.get(word, parse_logical(word)) for word in words]
    found = [flag for flag in flags if flag is not None]
    if len(found) < len(flags) or len(found) not in (1, 3):
        raise InvalidCrystalError(
            f"it cannot be read as extxyz: pbc should hold three flags, T or F; got {value[:40]!r}."
        )
    return found * (3 // len(found))


def format_entry(key: str, value: Any) -> str | None:
    """Entry of a comment line from which ASE reads the same value; None if there is no such entry.

    Numbers, logical values, vectors of these and plain words are written directly. Other JSON values are
    written as ``_JSON``: text with line breaks, text that looks like a number, lists, dictionaries.

    Args:
        key: A word without blanks and quotes.
        value: The value.
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
        forms.append(_quoted("_JSON " + json.dumps(to_jsonable(value))))
        return next((f"{key}={form}" for form in forms if _reads_back(key, form, value)), None)
    except (TypeError, RecursionError):
        return None


def _number_text(value: Any) -> str:
    return ("T" if value else "F") if isinstance(value, bool) else repr(value)


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _reads_back(key: str, form: str, value: Any) -> bool:
    """Return whether ASE reads the value from the entry; lists and arrays count as equal."""
    from ase.io.extxyz import key_val_str_to_dict

    try:
        found = key_val_str_to_dict(f"{key}={form} end")
    except (ValueError, OverflowError, RecursionError):
        return False
    if list(found) != [key, "end"]:
        return False
    before, after = to_jsonable(value), to_jsonable(found[key])
    return type(before) is type(after) and json.dumps(before) == json.dumps(after)
