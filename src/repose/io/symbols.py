"""Chemical elements of the sites of a CIF, from type symbols and labels.

A symbol is matched as a whole. Reading only its first letters would turn the site names ``T1``, ``Vac1``
and ``Cat1`` into hydrogen, vanadium and calcium, and the mixture ``Nb/Zr`` into niobium.
"""

from __future__ import annotations

import re

from repose.errors import InvalidCrystalError

# Names of groups in place of oxygen. Their hydrogen atoms are other sites.
_OXYGEN_GROUP = re.compile(r"(OW|OH|WAT|WATER|H2O)(?![A-Za-z])", re.IGNORECASE)
# Other names: deuterium, hydrogen of water, and the scattering factors of valence-state atoms.
_ALIASES = {"D": "H", "HW": "H", "CVAL": "C", "SIVAL": "Si", "SIVA": "Si"}
# Labels in capitals that are either an element or a hydrogen or oxygen atom with a letter.
_AMBIGUOUS = frozenset({"HO", "OS", "NO"})
# Single letters that follow the element in labels: 'SiT1' is silicon on T1, 'OA1' oxygen A1. Letters that
# are elements themselves may be a mixture, except after oxygen and hydrogen ('OB1', 'HN1').
_SITE_LETTERS = frozenset("ADEGJLMQRTXZ")
_BESIDE_O_AND_H = _SITE_LETTERS | frozenset("BCHNPSW")
# Largest atomic number of labels, where 'Cn1' is a site name, and of symbols in capitals, as in 'CN'.
_LAST_KNOWN = 103

_CHARGE = r"(?:[+-]\d*(?:\.\d+)?|\d+(?:\.\d+)?[+-]|\((?:\d?[+-]|I{1,3}|IV|VI{0,3})\))"
_TYPE = re.compile(rf"(?:\d{{1,3}})?([A-Za-z]+)(?:\d*|{_CHARGE})(?:,?spin=[+-]?\d+(?:\.\d+)?)?")
_LABEL = re.compile(r"\*?([A-Za-z]+)([^A-Za-z].*)?", re.DOTALL)
_FRACTION = re.compile(r"(?<![\d.])0?\.\d")


def site_element(label: str, kind: str) -> str:
    """Symbol of the element of a site.

    Args:
        label: ``_atom_site_label``; empty if not given.
        kind: ``_atom_site_type_symbol``; empty if not given, and the label is used.

    Raises:
        InvalidCrystalError: The symbol is no element, or a mixture of elements. Names the site.
    """
    kind, label = kind.strip(), label.strip()
    token = kind or label
    symbol = _of_type(kind) if kind else _of_label(label)
    if symbol is not None:
        return symbol
    if not kind and label[:2] in _AMBIGUOUS:
        raise InvalidCrystalError(
            f"site '{label}' may be {label[:2].title()} or {label[0]}; give _atom_site_type_symbol."
        )
    if _is_mixture(token):
        raise InvalidCrystalError(
            f"partial occupancy: site '{label or kind}' holds a mixture, '{token}'; expected one element "
            "on each site. Choose an ordered configuration."
        )
    raise InvalidCrystalError(
        f"site '{label or kind}' is of no known element ('{token}'); "
        "expected a chemical symbol in _atom_site_type_symbol."
    )


def bears_hydrogen(label: str, kind: str) -> bool:
    """Return whether the site is named after a group with hydrogen: OH, H2O or Wat."""
    group = _OXYGEN_GROUP.match(kind.strip() or label.strip())
    return group is not None and group.group(1).upper() != "OW"


def _is_mixture(token: str) -> bool:
    """Return whether a symbol has several elements, or a fraction: 'Nb/Zr', 'Nb0.8Zr0.2', 'Fe0.5'."""
    words = re.findall(r"[A-Z][a-z]?", token)
    known = [word for word in words if _proper(word)]
    return bool(known) and (
        bool(re.search(r"[A-Za-z\d+-]\s*[/,;&:+-]\s*\(?[A-Za-z]", token))
        or bool(_FRACTION.search(token))
        or len(set(known)) > 1 == (len(known) == len(words))
    )


def _of_type(token: str) -> str | None:
    if _OXYGEN_GROUP.fullmatch(token):
        return "O"
    if token in ("T", "T+", "T1+"):
        return "H"  # tritium
    match = _TYPE.fullmatch(token)
    return _element(match.group(1), last=118) if match else None


def _of_label(token: str) -> str | None:
    if _OXYGEN_GROUP.match(token):
        return "O"
    match = _LABEL.fullmatch(token)
    if match is None:
        return None
    stem, rest = match.group(1), match.group(2) or ""
    if re.search(r"[/,;&]", rest) or _FRACTION.match(rest) or _names_element(rest):
        return None
    if stem in _AMBIGUOUS:
        return None
    return _element(stem, last=_LAST_KNOWN) or _with_site_letter(stem)


def _element(stem: str, last: int) -> str | None:
    """Element in its usual spelling, in capitals or in lower case."""
    if stem.upper() in _ALIASES and stem in (stem.upper(), stem.title(), "Sival", "Siva"):
        return _ALIASES[stem.upper()]
    if stem in (stem.upper(), stem.lower()):
        stem, last = stem.title(), _LAST_KNOWN
    return stem if _proper(stem, last) else None


def _with_site_letter(stem: str) -> str | None:
    """Element of labels such as 'SiT', 'CaM' or 'OA': a symbol and one capital letter of the site."""
    symbol, letter = stem[:-1], stem[-1]
    allowed = _BESIDE_O_AND_H if symbol in ("O", "H") else _SITE_LETTERS
    return symbol if letter in allowed and _proper(symbol, _LAST_KNOWN) else None


def _names_element(rest: str) -> bool:
    """Return whether the end of a label has a second element: 'Fe1Mn1', 'O1Si', but not 'H1N' or 'O1w'."""
    return any(_proper(word) for word in re.findall(r"[A-Z][a-z](?![A-Za-z])", rest))


def _proper(symbol: str, last: int = 118) -> bool:
    from ase.data import atomic_numbers

    return 0 < atomic_numbers.get(symbol, 0) <= last
