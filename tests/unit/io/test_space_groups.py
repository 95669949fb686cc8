"""Space groups that files name without listing operations."""

import gemmi
import numpy as np
import pytest
import spglib
from ase.spacegroup import crystal

from repose.errors import InvalidCrystalError
from repose.io import space_groups
from repose.io.cif import read_cif, write_cif
from support.cif_files import (
    CALCITE,
    FD3M_1,
    FD3M_2,
    HEXAGONAL,
    cif,
    listed,
    operations,
    read_one,
    reason,
    space_group,
)

SPELLINGS = {
    225: ["F m -3 m", "Fm-3m", "FM-3M", "fm-3m", "F m 3 m", "F_m_-3_m", "F 4/m -3 2/m", "Fm-3m (225)",
        "F m 3bar m", "F m \u22123 m"],
    194: ["P 63/m m c", "P63/mmc", "P 6_3/m m c", "P6(3)/mmc", "P 6~3~/m m c", "P 6<sub>3</sub>/m m c",
        "P 63/m 2/m 2/c"],
    62: ["P n m a", "Pnma", "PNMA", "P_n_m_a", "P 21/n 21/m 21/a", "Pnma (No. 62)", "P n m a #62"],
    64: ["C m c a", "C m c e", "Cmce", "Cmca"],
    167: ["R -3 c H", "R -3 c :H", "R-3c:h", "R -3 c HR", "R -3 2/c", "R -3 c"],
    14: ["P 21/c", "P21/c", "P2_1/c", "P2(1)/c", "P 1 21/c 1", "P 1 2_1/c 1", "P 21/n", "P 21/c:b1",
        "P 1 21/a 1", "P 21/b"],
    205: ["P a -3", "Pa3", "P a 3", "P 21/a -3"],
    227: ["F d -3 m Z", "F d -3 m S", "F d -3 m :2", "Fd-3mz", "F 41/d -3 2/m (origin choice 2)",
        "F d 3 m :1"],
    141: ["I41/amdz", "I 41/a m d S", "I 41/a m d :2"],
    19: ["P 21 21 21", "P2(1)2(1)2(1)", "P2_12_12_1", "p212121"],
    146: ["R 3", "R3:H", "R 3 (hexagonal axes)", "R 3 R", "R 3 (rhombohedral axes)"],
    2: ["P -1", "P-1", "C -1", "I -1"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("expected", "name"), [(k, name) for k, names in SPELLINGS.items() for name in names]
)
def test_spellings_of_names(expected, name):
    found, _ = space_groups.find(name.replace("\u2212", "-"))
    assert {group.number for group in found} == {expected}
    for ending, choice in ((" Z", "2"), (" S", "1"), (":2", "2"), (":H", "H"), (":1", "1")):
        if name.endswith(ending):
            assert {group.ext for group in found} == {choice}


def test_every_tabulated_name_is_found():
    for index in range(1, 531):
        kind = spglib.get_spacegroup_type(index)
        for name in (kind.international_full, kind.international_short, *kind.international.split("=")):
            assert kind.number in {group.number for group in space_groups.find(name)[0]}
    for group in gemmi.spacegroup_table():
        if not any(mark in group.hm for mark in ")a") or group.number < 16:
            assert group in space_groups.find(group.xhm())[0]


@pytest.mark.parametrize("name", ["X", "F m -3 q", "P 7", "", "F", "m-3m", "Fm-3m:3", "225x"])
def test_names_that_are_none(name):
    assert space_groups.find(name)[0] == []


@pytest.mark.parametrize(
    ("name", "count"),
    [("F 1 2/d 1", 16), ("I b m m", 16), ("P 1 1 2/m", 4), ("C 1 2 1", 4), ("junk", 0), ("R -3 m", 36)],
)
def test_order_of_names_outside_of_the_tables(name, count):
    assert space_groups.order(name) == count


@pytest.mark.parametrize(
    "group",
    [
        g
        for g in gemmi.spacegroup_table()
        if g.number in (3, 5, 14, 15, 36, 62, 64, 68, 129, 146, 167, 203, 220, 227)
    ],
    ids=lambda g: g.xhm(),
)
def test_settings_without_operations(group):
    """One general site of each setting: as many atoms as operations, in the right space group."""
    cells = {
        "R": (5, 5, 5, 70, 70, 70),
        "hex": (5, 5, 7, 90, 90, 120),
        "cubic": (6, 6, 6, 90, 90, 90),
        "tet": (5, 5, 7, 90, 90, 90),
    }
    system = group.crystal_system_str()
    if system == "monoclinic":
        angle = {"a": (100, 90, 90), "b": (90, 100, 90), "c": (90, 90, 100)}[group.monoclinic_unique_axis()]
        cell = (5, 6, 7, *angle)
    elif system == "orthorhombic":
        cell = (5, 6, 7, 90, 90, 90)
    else:
        cell = cells[
            "R"
            if group.ext == "R"
            else {"trigonal": "hex", "hexagonal": "hex", "tetragonal": "tet"}.get(system, "cubic")
        ]
    sites = [("Na1", "Na", 0.117, 0.0713, 0.2291), ("Cl1", "Cl", 0.331, 0.1937, 0.0417)]
    order = len(list(group.operations()))
    reference = [listed([op.triplet() for op in group.operations()])]
    for lines in (
        [f"_space_group_name_H-M_alt '{group.xhm()}'"],
        [f"_space_group_name_Hall '{group.hall}'"],
        reference,
    ):
        atoms = read_one(cif([*lines, f"_symmetry_Int_Tables_number {group.number}"], sites, cell))
        assert len(atoms) == 2 * order
        assert space_group(atoms) == group.number


def test_the_choice_of_axes_and_origin():
    code = "_space_group_IT_coordinate_system_code"
    diamond = [("Si1", "Si", 0.125, 0.125, 0.125)]
    assert len(read_one(cif(["_space_group_IT_number 227", f"{code} 2"], diamond))) == 8
    assert len(read_one(cif(["_space_group_IT_number 227", f"{code} 1"], diamond))) == 16
    assert "two choices of origin" in reason(cif("_space_group_IT_number 227", diamond))
    assert "two choices of origin" in reason(
        cif("_space_group_name_H-M_alt 'P n c b'", diamond, (5, 6, 7, 90, 90, 90))
    )
    text = cif(["_space_group_IT_number 15", f"{code} c1"], diamond, (5, 6, 7, 90, 90, 90))
    reference = cif("_space_group_name_H-M_alt 'A 1 1 2/a'", diamond, (5, 6, 7, 90, 90, 90))
    np.testing.assert_allclose(read_one(text).positions, read_one(reference).positions)
    # The list is of one origin, the name of the other.
    listing = listed(operations(FD3M_2))
    assert "another group" in reason(cif(["_symmetry_space_group_name_H-M 'F d -3 m S'", listing], diamond))
    assert len(read_one(cif(["_symmetry_space_group_name_H-M 'F d -3 m Z'", listing], diamond))) == 8
    assert len(read_one(cif(["_symmetry_space_group_name_H-M 'F d 3 m'", listing], diamond))) == 8
    assert (
        len(
            read_one(
                cif(["_symmetry_space_group_name_H-M 'F d -3 m :1'", listed(operations(FD3M_1))], diamond)
            )
        )
        == 16
    )


def test_axes_of_rhombohedral_groups():
    for name in SPELLINGS[167]:
        atoms = read_one(cif(f"_symmetry_space_group_name_H-M '{name}'", CALCITE, HEXAGONAL))
        assert (len(atoms), space_group(atoms)) == (30, 167)
    assert "does not fit its cell" in reason(
        cif("_symmetry_space_group_name_H-M 'R -3 c R'", CALCITE, HEXAGONAL)
    )
    primitive = [("Ca1", "Ca", 0, 0, 0), ("C1", "C", 0.25, 0.25, 0.25), ("O1", "O", 0.5078, 0.9922, 0.25)]
    for name in ("R -3 c R", "R -3 c :R", "R-3c"):
        atoms = read_one(
            cif(f"_symmetry_space_group_name_H-M '{name}'", primitive, (6.37, 6.37, 6.37, 46.1, 46.1, 46.1))
        )
        assert (len(atoms), space_group(atoms)) == (10, 167)


@pytest.mark.parametrize(
    "lines",
    [
        ["_space_group_name_H-M_alt 'F m -3 m'", "_space_group_IT_number 221"],
        ["_space_group_name_Hall '-F 4 2 3'", "_space_group_IT_number 221"],
        ["_space_group_name_H-M_alt 'F m -3 m'", "_symmetry_space_group_name_H-M 'P m -3 m'"],
        ["_space_group_name_H-M_ref 'P m -3 m'", "_space_group_IT_number 225"],
    ],
)
def test_names_that_contradict_each_other(lines):
    assert "are different space groups" in reason(cif(lines))


def test_names_that_cannot_be_used():
    for line in (
        "_space_group_name_H-M_alt 'F m -3 q'",
        "_space_group_IT_number 300",
        "_space_group_name_Hall 'xx'",
    ):
        assert "is unknown" in reason(cif(line))
    assert "does not fit its cell" in reason(cif("_space_group_IT_number 225", cell=(5, 6, 7, 90, 90, 90)))
    moved = ["_space_group_IT_number 225", "_space_group_transform_Pp_abc 'a-b,b,c;0,0,0'"]
    assert "differ from those of the named" in reason(cif(moved))
    # A reference setting says nothing of the setting in use, if there are several.
    cell = (5, 6, 7, 90, 100, 90)
    assert "only a reference setting" in reason(cif("_space_group_name_H-M_ref 'P 1 21/c 1'", cell=cell))
    assert "has the values" in reason(cif("loop_\n_space_group_IT_number\n225\n221"))


@pytest.mark.parametrize(
    "line",
    [
        "_symmetry_space_group_name_H-M 'P 42/m n m'",
        "_symmetry_Int_Tables_number 136",
        "_space_group_name_Hall '-P 4n 2n'",
    ],
)
def test_space_group_without_operations(line):
    atoms = crystal(
        "TiO", [(0, 0, 0), (0.3053, 0.3053, 0)], spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90]
    )
    text = f"""data_rutile
_cell_length_a 4.594
_cell_length_b 4.594
_cell_length_c 2.959(3)
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
{line}
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Ti1 0 0 0

O1 0.3053(2) 0.3053(2) 0
"""
    (parsed,) = read_cif(text)
    assert parsed.get_chemical_symbols() == ["Ti"] * 2 + ["O"] * 4
    assert np.sort(parsed.get_all_distances(mic=True).ravel()) == pytest.approx(
        np.sort(atoms.get_all_distances(mic=True).ravel()), abs=1e-9
    )


def test_settings_that_cannot_be_told_apart_are_refused():
    text = write_cif([14], np.zeros((1, 3)), 5.43 * np.eye(3), "si").split("loop_")
    head = (
        text[0].replace("'P 1'", "'F d -3 m'").replace("_space_group_IT_number 1", "").replace("_Z 1", "_Z 8")
    )
    (refused,) = read_cif(head + "loop_" + text[2])
    assert isinstance(refused, InvalidCrystalError)
    assert "two choices of origin" in str(refused)
    (parsed,) = read_cif(head.replace("'F d -3 m'", "'F d -3 m :1'") + "loop_" + text[2])
    assert len(parsed) == 8


def test_operations_that_do_not_fit_the_cell_are_refused():
    text = write_cif([14], np.array([[0.1, 0.2, 0.3]]), np.diag([5.0, 6.0, 7.0]), "x")
    (refused,) = read_cif(text.replace("'x, y, z'", "'x, y, z'\n'y, x, z'"))
    assert "do not fit its cell" in str(refused)
