"""Syntax of CIF: text to blocks of values, parsed by gemmi after common errors are repaired.

Tags are compared without case and separators, because their spelling varies:
``_symmetry_space_group_name_H-M``, ``_symmetry_space_group_name_H_M``, ``_symmetry.space_group_name_H-M``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from repose.errors import InvalidCrystalError

_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?:\(\d*\))?")
# Tags whose contradictory repetition invalidates a block, unlike that of other tags, e.g. of authors.
_NEEDED = re.compile(r"cell|atomsite(?!aniso)|chemicalformulasum|symmetry|spacegroup")
# A tag with its value on one line; a value with blanks but without quotes or comment.
_PAIR = re.compile(r"\s*(_\S+)[ \t]+([^_#\s].*?)\s*")
_UNQUOTED = re.compile(r"""[^'"_#;\s][^'"#]*\s[^'"#_\s](?:(?!\s_)[^'"#])*""")
_MINUS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-")
_BLANK = dict.fromkeys(map(ord, "\x0b\x0c\x1a\u00a0\u2028\u2029\ufeff"), " ")


@dataclass(frozen=True)
class Block:
    """Data block.

    Attributes:
        name: Name after ``data_``.
        columns: Values of each tag, by `tag_key`; '' for unknown ('?') and inapplicable ('.') values.
        tags: Spelling of the tags in the file, by `tag_key`.
        loops: Tags of each loop, as from `tag_key`.
        repeated: Tags with contradictory values.
    """

    name: str
    columns: dict[str, list[str]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    loops: list[tuple[str, ...]] = field(default_factory=list)
    repeated: tuple[str, ...] = ()

    def column(self, *keys: str) -> list[str] | None:
        """Values of the first of these tags that exists."""
        return next((self.columns[k] for k in keys if k in self.columns), None)

    def value(self, *keys: str) -> str | None:
        """Value of the first of these tags that has a value, or None.

        Raises:
            InvalidCrystalError: The tag has several values.
        """
        for k in keys:
            known = {value for value in self.columns.get(k, ()) if value}
            if len(known) > 1:
                raise InvalidCrystalError(
                    f"{self.tags[k]} has the values {', '.join(map(repr, sorted(known)[:3]))}; expected one."
                )
            if known:
                return known.pop()
        return None


def tag_key(tag: str) -> str:
    """Tag in lower case without separators: 'spacegroupnamehmalt' for '_space_group.name_H-M_alt'."""
    return re.sub(r"[-_./\s]", "", tag).lower()


def parse_number(value: str | None) -> float | None:
    """Parse a CIF number with an optional uncertainty in brackets; None for other text."""
    match = _NUMBER.fullmatch(value or "")
    return float(match.group(1)) if match else None


def parse(text: str) -> list[Block | InvalidCrystalError]:
    """Data blocks of a file, or the error for each block that cannot be parsed.

    Raises:
        InvalidCrystalError: No block can be parsed; names the line.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_MINUS).translate(_BLANK)
    text = re.sub(r"[^\x00-\x7f]", "~", text)  # gemmi allows ASCII only, as CIF 1.1 does
    try:
        return list(_blocks(text))
    except InvalidCrystalError as error:
        parts = _parts(text)
        if len(parts) < 2:
            raise
        blocks: list[Block | InvalidCrystalError] = []
        for part in parts:
            try:
                blocks += _blocks(part)
            except InvalidCrystalError as reason:
                blocks.append(reason)
        if all(isinstance(block, InvalidCrystalError) for block in blocks):
            raise error from None
        return blocks


def _blocks(text: str) -> Iterator[Block]:
    for found in _document(text):
        columns: dict[str, list[str]] = {}
        tags: dict[str, str] = {}
        loops: list[tuple[str, ...]] = []
        repeated: list[str] = []
        for item in found:
            if item.loop is not None:
                names, rows = list(item.loop.tags), list(item.loop.values)
                loops.append(tuple(tag_key(name) for name in names))
                pairs = [(name, rows[k :: len(names)]) for k, name in enumerate(names)]
            elif item.pair is not None:
                pairs = [(item.pair[0], [item.pair[1]])]
            else:  # a save frame, which only dictionaries have
                continue
            for name, values in pairs:
                known, values = tag_key(name), [_plain(value) for value in values]
                if known in columns and columns[known] != values and _NEEDED.match(known):
                    repeated.append(name)
                columns[known], tags[known] = values, name
        yield Block(found.name.strip(), columns, tags, loops, tuple(repeated))


def _plain(value: str) -> str:
    import gemmi

    # A tag without a value counts as unknown.
    return gemmi.cif.as_string(value).strip() if value else ""


def _document(text: str) -> Any:
    import gemmi

    try:
        return gemmi.cif.read_string(text, check_level=0)
    except (ValueError, RuntimeError) as error:
        reason = str(error)
    repaired = _repaired(text)
    if repaired != text:
        try:
            return gemmi.cif.read_string(repaired, check_level=0)
        except (ValueError, RuntimeError):
            pass  # the error of the original text is more helpful
    match = re.match(r"string:(\d+)[^ ]* (.*)", reason, re.DOTALL)
    where = f"line {match.group(1)}: {match.group(2)}" if match else reason
    raise InvalidCrystalError(
        f"it is not CIF, or ends early ({' '.join(where.split())}); expected data blocks with cell and "
        "atoms, rows of loops complete, and quotes around values with blanks."
    )


def _repaired(text: str) -> str:
    """Text with common harmless errors repaired.

    Unquoted values with blanks ('F m -3 m' after its tag) and lists of CIF 2 get quotes; values of tags that
    are not needed, such as titles with unbalanced quotes, are dropped.
    """
    lines: list[str] = []
    header = False
    for line, inside in _lines(text):
        header = not inside and (
            line.strip().lower() == "loop_" or (header and line.lstrip()[:1] in ("_", "#", ""))
        )
        pair = None if inside or header else _PAIR.fullmatch(line)
        if pair and not _NEEDED.match(tag_key(pair.group(1))):
            line = f"{pair.group(1)} ?"
        elif pair and _UNQUOTED.fullmatch(pair.group(2)):
            line = f"{pair.group(1)} '{pair.group(2)}'"
        elif not inside:
            line = re.sub(r"(?<!\S)(\[[^\]'\"]*\])(?!\S)", r"'\1'", line)
        lines.append(line)
    return "\n".join(lines)


def _parts(text: str) -> list[str]:
    """Text of each data block, after empty lines that keep the line numbers of the file."""
    lines = list(_lines(text))
    starts = [k for k, (line, inside) in enumerate(lines) if not inside and re.match(r"(?i)\s*data_", line)]
    ends = [*starts[1:], len(lines)][: len(starts)]
    return ["\n" * a + "\n".join(line for line, _ in lines[a:b]) for a, b in zip(starts, ends, strict=True)]


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Yield lines, and whether they belong to a text field between semicolons."""
    inside = False
    for line in text.split("\n"):
        starts = line.startswith(";")
        yield line, inside or starts
        inside ^= starts
