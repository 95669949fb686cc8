"""Symmetry operations of a CIF block, listed or named by its tags.

Unknown tags of symmetry are refused: ignoring them would give a crystal with missing atoms. Operations must
form a group that fits the cell. If a name or number is that of another group, this is stored in
`Symmetry.contradiction` and resolved with the atoms by `repose.io.cif_checks`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repose.errors import InvalidCrystalError
from repose.io import space_groups
from repose.io.cif_operations import (
    LARGEST_MISFIT,
    check_group,
    fits,
    keys,
    misfit,
    parse_operations,
    products,
)
from repose.io.cif_syntax import Block, parse_number, tag_key
from repose.io.space_groups import Operations

_OPERATIONS = re.compile(r"(symmetry|spacegroup)(equiv|symop)?(pos|operation)*(as)?xyz")
_MAGNETIC = re.compile(r"(?=.*magn)(magnetic)?spacegroup(symop|magn)*(operation|centering)xyz")
_NAME = re.compile(r"(symmetry)?(pdbxfull)?(spacegroup)?(name)?(hm)(alt|full|short|extended)*(name)?")
_PLAIN_NAME = re.compile(r"(symmetry)?spacegroup(name)?(hm)?|symmetry(name)?|sg(name|symbol)?(hm)?")
_HALL = re.compile(r"(symmetry)?(spacegroup)?(name)?hall(symbol)?")
_NUMBER = re.compile(
    r"(symmetry)?(spacegroup|group|sg)?(inttables?|internationaltables?|it|itc)?(number|num|no)"
)
_SCHOENFLIES = re.compile(r"(symmetry)?spacegroup(name)?schoenflies")
_REFERENCE = re.compile(r"spacegroup(namehmref|referencesetting)")
_TRANSFORM = re.compile(r"spacegrouptransform(ppabc|qqxyz)")
_CHOICE = re.compile(r"(symmetry|spacegroup)*itcoordinatesystemcode")
_SYSTEM = re.compile(r"(symmetry|spacegroup)*(cellsetting|crystalsystem|crystalclass|crystalfamily)")
# Tags without information on operations: identifiers, classes, comments, symmetry of other objects.
_HARMLESS = re.compile(
    r"(symmetry|spacegroup)+(equiv|symop)*(pos)?(site)?(magn)?(operation|centering)?(sg)?(id|entryid|description)"
    r"|(symmetry|spacegroup)*(laueclass|bravaistype|cent(e)?ringtype|pattersonname.*|pointgroup.*|wyckoff.*)"
    r"|(symmetry|spacegroup).*(details?|description|comment|asymunitexpression|multiplicity)|symmetryndb.*"
    r"|spacegroupsymop(magn)?operation(mxmymz|timereversal)|spacegroupsymopmagncenteringmxmymz"
    r"|(magnetic)?spacegroupmagn(number|name|uni|og|bns|transform|pointgroup).*"
    r"|magneticspacegroup.*(number|name|point).*|parent.*"
    r"|(geom|refln|diffrn|exptl|refine|pdbx|struct|atomsite|shelx|olex2|oxford|audit|publ|journal|iucr|cod|ccdc"
    r"|citation|chemical|computing|platon|vrf|valence|em|entity|iso|irrep|jana|aflow|pd|cell(?!mod)|database).*"
)
_SYMMETRY = re.compile(
    r"symm|space?gro?u?p|symop|ssg|magneticgroup|equivpos|asxyz|operationxyz|namehm|namehall|inttables|itnumber"
    r"|internationaltables|^sg(name|symbol|number|hm)?$|^(hm|hall)(name|symbol)?$"
)
_MODULATED = re.compile(r".*spacegroup.*ssg.*|cell(modulation|subsystem|wavevector).*")
# Tags that imply symmetry if operations and names are missing.
_HINT = re.compile(
    r"(symmetry|spacegroup)+(laue|bravais|cent|point|patterson|symop|equiv|transform)|parentspacegroup"
)
# Tags of sites; in P1 all values are '1a' or '1'.
_WYCKOFF = re.compile(r"atomsite(symmetry)?wyckoff(symbol|label|letter|position)?")
_SITE_SYMMETRY = "atomsitesitesymmetry"
_IDENTITIES = ("a,b,c;0,0,0", "a,b,c", "x,y,z")


@dataclass(frozen=True)
class Contradiction:
    """Contradiction between the named group and the operations.

    Attributes:
        message: Description of the contradiction.
        others: Operations of the named group in each setting that fits the cell.
        numbers: Numbers of the named space groups.
        order: Number of operations of the named group in the cell; 0 if unknown.
        hint: No group is named, but for example a crystal system.
    """

    message: str
    others: tuple[Operations, ...] = ()
    numbers: frozenset[int] = frozenset()
    order: int = 0
    hint: bool = False


@dataclass(frozen=True)
class Symmetry:
    """Operations on fractional column vectors, ``(m, 3, 3)`` and ``(m, 3)``, and contradictions to them."""

    rotations: NDArray[Any]
    translations: NDArray[Any]
    contradiction: Contradiction | None = None

    @property
    def operations(self) -> Operations:
        """Rotations and translations."""
        return self.rotations, self.translations


@dataclass(frozen=True)
class _Named:
    """Group named by a tag: settings of the table, or operations of a Hall symbol."""

    tag: str
    value: str
    settings: tuple[Any, ...] = ()
    hall: Operations | None = None
    choice: str = ""

    @property
    def known(self) -> bool:
        return bool(self.settings) or self.hall is not None

    def __str__(self) -> str:
        return f"{self.tag} '{self.value}'"


def symmetry(block: Block, cell: NDArray[Any]) -> Symmetry:
    """Operations of a block.

    Args:
        block: The data block.
        cell: Lattice vectors as rows in A, ``(3, 3)``.

    Raises:
        InvalidCrystalError: A tag of symmetry is unknown, the operations cannot be read, do not form a group
            or do not fit the cell, or the named group is unknown or ambiguous.
    """
    tags = [k for k in block.columns if _SYMMETRY.search(k) or _MODULATED.fullmatch(k)]
    tags = [k for k in tags if any(block.columns[k])]
    for tag in tags:
        if _MODULATED.fullmatch(tag) and parse_number(block.columns[tag][0]) != 0:
            raise InvalidCrystalError(
                f"it is a modulated structure ({block.tags[tag]}); expected a crystal periodic in three "
                "dimensions, e.g. a commensurate supercell."
            )
    listed = _listed(block, tags)
    named = [name for tag in tags for name in _named(block, tag)]
    unknown = [tag for tag in tags if not _known(tag)]
    if unknown:
        raise InvalidCrystalError(
            f"its symmetry tag {block.tags[unknown[0]]} is not understood; expected the operations in "
            "_space_group_symop_operation_xyz, and the name in _space_group_name_H-M_alt."
        )
    if listed is None:
        return _tabulated(block, cell, named, tags)
    rotations, translations = listed
    check_group(rotations, translations)
    special = _special_positions(block)
    if len(rotations) == 1 and not named and special:
        tag = block.tags[special[0]]
        message = f"it lists only the identity as symmetry operation, but {tag} has others"
        return Symmetry(rotations, translations, Contradiction(message, hint=True))
    if not fits(rotations, cell):
        raise InvalidCrystalError("its symmetry operations do not fit its cell; check lengths and angles.")
    return Symmetry(rotations, translations, _contradiction(listed, named, cell))


def _known(tag: str) -> bool:
    patterns = (_OPERATIONS, _MAGNETIC, _NAME, _PLAIN_NAME, _HALL, _NUMBER, _SCHOENFLIES, _REFERENCE)
    patterns += (_TRANSFORM, _CHOICE, _SYSTEM, _HARMLESS, _MODULATED)
    return any(pattern.fullmatch(tag) for pattern in patterns)


def _special_positions(block: Block) -> list[str]:
    """Tags of columns of sites with special positions, which P1 lacks."""
    tags = [tag for tag in block.columns if _WYCKOFF.fullmatch(tag) or tag == _SITE_SYMMETRY]
    general = {"1a", "a", "1", ""}
    return [tag for tag in tags if not general.issuperset(v.strip("?.").lower() for v in block.columns[tag])]


# Listed operations


def _listed(block: Block, tags: list[str]) -> Operations | None:
    """Listed operations; those of magnetic lists without time reversal, which does not move atoms."""
    lists = [parse_operations(tuple(block.columns[tag])) for tag in tags if _OPERATIONS.fullmatch(tag)]
    magnetic = {tag: tuple(block.columns[tag]) for tag in tags if _MAGNETIC.fullmatch(tag)}
    operations = [parse_operations(texts, True) for tag, texts in magnetic.items() if "operation" in tag]
    if not operations and any("magn" in tag and not tag.startswith("parent") for tag in tags):
        raise InvalidCrystalError("its magnetic symmetry lists no operations; write them into the file.")
    for tag, texts in magnetic.items():
        if "centering" in tag:
            operations = [products(parse_operations(texts, True), listed) for listed in operations]
    lists += operations
    if not lists:
        return None
    if any({*keys(*other)} != {*keys(*lists[0])} for other in lists[1:]):
        raise InvalidCrystalError("its two lists of symmetry operations differ; leave the right one.")
    return lists[0]


# Named groups


def _named(block: Block, tag: str) -> list[_Named]:
    is_name = any(p.fullmatch(tag) for p in (_NAME, _PLAIN_NAME)) or tag == "spacegroupnamehmref"
    others = (_HALL, _SCHOENFLIES, _NUMBER, _REFERENCE)
    if not is_name and not any(pattern.fullmatch(tag) for pattern in others):
        return []
    value, spelled = block.value(tag) or "", block.tags[tag]
    if _HALL.fullmatch(tag):
        return [_Named(spelled, value, hall=space_groups.from_hall(value))]
    if _SCHOENFLIES.fullmatch(tag):
        symbol = re.sub(r"[^a-z0-9]+", "^", re.sub(r"[~_\s]", "", value.lower())).strip("^")
        found = space_groups.by_schoenflies().get(symbol, 0)
        return [_Named(spelled, value, tuple(space_groups.settings(found)))]
    if is_name and parse_number(value) is None:
        settings, choice = space_groups.find(value)
        if _REFERENCE.fullmatch(tag) and settings:  # the setting in use may be any
            settings = space_groups.settings(settings[0].number)
        return [_Named(spelled, value, tuple(settings), choice=choice)]
    if is_name or _NUMBER.fullmatch(tag):
        return [_Named(spelled, value, tuple(space_groups.settings(int(parse_number(value) or 0))))]
    match = re.match(r"(?:IT\s*:)?\s*(\d{1,3})\s*:", value, re.IGNORECASE)  # a reference setting
    return [_Named(spelled, value, tuple(space_groups.settings(int(match.group(1)))) if match else ())]


def _contradiction(listed: Operations, named: list[_Named], cell: NDArray[Any]) -> Contradiction | None:
    """Contradiction of the first name that is not that of the group of the operations."""
    rotations, translations = listed
    if not named:
        return None
    found, choice = space_groups.identify(rotations, translations, cell)
    what = "it lists only the identity as symmetry operation"
    if len(rotations) > 1:
        what = f"it lists {len(rotations)} symmetry operations, those of space group {found or 'unknown'}"
    for name in named:
        if name.hall is not None:
            numbers = frozenset({space_groups.identify(*name.hall, cell)[0]})
            order = len(name.hall[0])
        else:
            numbers = frozenset(group.number for group in name.settings)
            order = len(list(name.settings[0].operations())) if name.settings else 0
            order = order or space_groups.order(name.value)
        if name.known:
            wrong = found not in numbers if found and 0 not in numbers else order != len(rotations)
            wrong = wrong or bool(name.choice and choice and name.choice in "12" and name.choice != choice)
        else:  # unknown names are ignored, unless the list is too short
            wrong = order != len(rotations) if order else len(rotations) == 1
        if wrong:
            others = [name.hall] if name.hall else [space_groups.operations(group) for group in name.settings]
            fitting = tuple(other for other in others if fits(other[0], cell))
            return Contradiction(f"{what}, but {name} is another group", fitting, numbers, order)
    return None


def _tabulated(block: Block, cell: NDArray[Any], named: list[_Named], tags: list[str]) -> Symmetry:
    """Operations of the named space group, for files without a list; P1 if no group is named."""
    if not named:
        hints = [k for k in tags if _SYSTEM.fullmatch(k) or _HINT.match(k)] + _special_positions(block)
        contradiction = None
        if hints:
            message = f"{block.tags[hints[0]]} implies symmetry, but no operations or space group are given"
            contradiction = Contradiction(message, hint=True)
        return Symmetry(np.eye(3, dtype=int)[None], np.zeros((1, 3)), contradiction)
    for name in named:
        if not name.known:
            raise InvalidCrystalError(
                f"it lists no symmetry operations, and its space group {name.value!r} ({name.tag}) is "
                "unknown; write the operations into the file."
            )
    transforms = [block.columns[tag][0] for tag in tags if _TRANSFORM.fullmatch(tag)]
    if any(re.sub(r"[\s+]", "", t).lower() not in _IDENTITIES for t in transforms):
        raise InvalidCrystalError(
            f"it lists no symmetry operations, and its axes ({transforms[0]!r}) differ from those of the "
            "named space group; write the operations into the file."
        )
    halls = [name for name in named if name.hall is not None]
    if halls and halls[0].hall is not None:
        hall = halls[0].hall
        found = space_groups.identify(*hall, cell)[0]
        for name in named:
            if name.settings and found not in {group.number for group in name.settings}:
                raise InvalidCrystalError(f"its {halls[0]} and its {name} are different space groups.")
        candidates = [(halls[0].choice, hall)] if fits(hall[0], cell) else []
    else:
        candidates = _candidates(block, cell, named, tags)
    if not candidates:
        raise InvalidCrystalError(
            f"it lists no symmetry operations, and its space group {named[0].value!r} is unknown or does not "
            "fit its cell; write the operations into the file."
        )
    # Of several settings the first, standard one is taken; two choices of origin are ambiguous.
    if {ext for ext, _ in candidates} >= {"1", "2"}:
        raise InvalidCrystalError(
            f"it lists no symmetry operations, and its space group {named[0].value!r} has two choices of "
            "origin; write the operations or the choice (e.g. 'F d -3 m :2') into the file."
        )
    return Symmetry(*candidates[0][1])


def _candidates(
    block: Block, cell: NDArray[Any], named: list[_Named], tags: list[str]
) -> list[tuple[str, Operations]]:
    """Choice of origin or axes, and operations, of each setting that fits all names and the cell."""
    references = [name for name in named if _REFERENCE.fullmatch(tag_key(name.tag))]
    own = sorted((name for name in named if name not in references), key=lambda name: len(name.settings))
    settings = list((own or references)[0].settings)
    for name in named:
        allowed = {group.number if name in references else group.hall for group in name.settings}
        left = [
            group for group in settings if (group.number if name in references else group.hall) in allowed
        ]
        if not left:
            raise InvalidCrystalError(f"its {named[0]} and its {name} are different space groups.")
        settings = left
    code = next((block.value(tag) for tag in tags if _CHOICE.fullmatch(tag)), None)
    if code is not None:
        settings = [group for group in settings if code.lower() in space_groups.codes(group)]
    misfits = [misfit(space_groups.operations(group)[0], cell) for group in settings]
    # Angles of 90.5 degrees fit settings of every unique axis; keep those that fit best.
    limit = min([LARGEST_MISFIT, *(off + 2e-3 for off in misfits)])
    fitting = [group for group, off in zip(settings, misfits, strict=True) if off < limit]
    if not own and len(fitting) > 1:
        raise InvalidCrystalError(
            f"it lists no symmetry operations, and names only a reference setting ({references[0]}); write "
            "the operations or _space_group_name_H-M_alt into the file."
        )
    return [(group.ext, space_groups.operations(group)) for group in fitting]
