"""Symmetry of CIF: every spelling is understood or refused, and nothing contradicts the atoms made."""

import gemmi
import numpy as np
import pytest
from ase.spacegroup import crystal
from pymatgen.core import Structure

from repose.errors import InvalidCrystalError
from repose.io.cif import read_cif
from support.cif_files import (
    ALL_ROCK_SALT,
    CALCITE,
    COLUMNS,
    FM3M,
    HEXAGONAL,
    PM3M,
    ROCK_SALT,
    cif,
    is_rock_salt,
    listed,
    operations,
    read_one,
    reason,
    space_group,
)

FORMULA = ["_chemical_formula_sum 'Na Cl'", "_cell_formula_units_Z 4"]
IDENTITY = listed(["x,y,z"])


# ---- tags


NAME_TAGS = [
    "_symmetry_space_group_name_H-M", "_symmetry_space_group_name_H_M", "_symmetry.space_group_name_H-M",
    "_space_group_name_H-M_alt", "_space_group_name_H_M_alt", "_space_group.name_H-M_alt",
    "_space_group_name_H-M",
    "_space_group_name_H-M_full", "_space_group.name_H-M_full", "_symmetry_space_group_name_H-M_full",
    "_space_group_name_H-M_ref", "_space_group.name_H-M_ref", "_SYMMETRY_SPACE_GROUP_NAME_H-M",
    "_symmetry.pdbx_full_space_group_name_H-M", "_space_group_name", "_symmetry_space_group",
    "_spacegroup_name_H-M",
    "_space_group_name_H-M_short", "_space_group_name_HM", "_symmetry_space_group_name",
]  # fmt: skip
NUMBER_TAGS = [
    "_symmetry_Int_Tables_number", "_symmetry.Int_Tables_number", "_space_group_IT_number",
    "_space_group.IT_number",
    "_symmetry_group_IT_number", "_symmetry_space_group_number", "_space_group_number", "_symmetry_IT_number",
    "_symmetry_int_tables_no", "_SPACE_GROUP_IT_NUMBER", "_symmetry_space_group_IT_number",
]  # fmt: skip
OTHER_TAGS = [
    "_space_group_name_Hall '-F 4 2 3'", "_symmetry_space_group_name_Hall '-F 4 2 3'",
    "_space_group.name_Hall '-f 4 2 3'",
    "_symmetry.space_group_name_Hall '-F_4_2_3'", "_space_group_name_Schoenflies Oh.5",
    "_space_group_name_Schoenflies 'O~h~^5^'", "_space_group.name_Schoenflies Oh^5",
    "_space_group_reference_setting 'IT:225:F m -3 m'", "_space_group.reference_setting '225:-F 4 2 3'",
]  # fmt: skip
OPERATION_TAGS = [
    "_symmetry_equiv_pos_as_xyz", "_symmetry_equiv.pos_as_xyz", "_space_group_symop_operation_xyz",
    "_space_group_symop.operation_xyz", "_SYMMETRY_EQUIV_POS_AS_XYZ", "_space_group_symop_xyz",
    "_symmetry_equiv_xyz",
]  # fmt: skip


@pytest.mark.parametrize("tag", NAME_TAGS)
@pytest.mark.parametrize("name", ["F m -3 m", "Fm-3m", "F 4/m -3 2/m", "F m 3 m"])
def test_tags_of_names(tag, name):
    assert is_rock_salt(cif(f"{tag} '{name}'"))


@pytest.mark.parametrize("line", [*(f"{tag} 225" for tag in NUMBER_TAGS), *OTHER_TAGS])
def test_tags_of_numbers_and_halls(line):
    assert is_rock_salt(cif(line))
    assert is_rock_salt(cif([line, listed(operations(FM3M))]))
    # The same tags beside the operations of another group.
    assert "lists 48 symmetry operations, those of space group 221, but" in reason(
        cif([line, listed(operations(PM3M))])
    )


@pytest.mark.parametrize("tag", OPERATION_TAGS)
def test_tags_of_operations(tag):
    texts = operations(FM3M)
    assert is_rock_salt(cif(listed(texts, tag)))
    numbered = [
        "loop_",
        tag.rsplit("_", 1)[0] + "_id",
        tag,
        *(f"{k} '{text}'" for k, text in enumerate(texts)),
    ]
    if "equiv" not in tag.lower():
        assert is_rock_salt(cif(numbered))


@pytest.mark.parametrize(
    "line",
    [
        "_symmetry_space_group_symbol 'F m -3 m'", "_space_group_symop_generator_xyz '-x,-y,-z'",
        "_my_space_group 225",
        "_space_group_symop.R '[[1]]'", "_symmetry_matrix 1", "_space_group_name_ITA 'F m -3 m'",
        "_symop_card 'x,y,z'",
        "_symmetry_generators '-x,-y,-z'", "_space_group_unknown_thing 1",
    ],
)  # fmt: skip
def test_tags_that_are_not_understood(line):
    assert line.split()[0] in reason(cif(line))
    assert line.split()[0] in reason(cif([line, listed(operations(FM3M))]))
    assert len(read_one(cif([line.split()[0] + " ?", listed(operations(FM3M))]))) == 8


def test_tags_that_add_nothing():
    lines = [
        "_symmetry_cell_setting cubic", "_space_group_crystal_system cubic", "_space_group.id 1",
        "_symmetry.entry_id x",
        "_space_group_Bravais_type cF", "_space_group_centring_type F", "_space_group_Laue_class m-3m",
        "_space_group_IT_coordinate_system_code ?", "_space_group_transform_Pp_abc 'a,b,c;0,0,0'",
        "_shelx_space_group_comment 'x'",
        "_space_group_point_group_H-M m-3m", "_space_group_Patterson_name_H-M 'F m -3 m'",
        "_cod_original_sg_symbol_H-M 'F m 3 m'",
        "_parent_space_group.name_H-M_alt 'P 4/m m m'", "_refln_symmetry_epsilon 1",
        "_exptl_symmetry_comment x",
        "_space_group_name_H-M_alt_description 'as is'", "_cell_modulation_dimension 0",
    ]  # fmt: skip
    assert is_rock_salt(cif([*lines, listed(operations(FM3M))]))
    assert is_rock_salt(cif([*lines, "_space_group_name_H-M_alt 'F m -3 m'"]))


@pytest.mark.parametrize(
    "line",
    ["_symmetry_cell_setting cubic", "_space_group.crystal_system cubic", "_space_group_Laue_class m-3m",
     "_parent_space_group.IT_number 225", "_space_group_symop_id 1"],
)  # fmt: skip
def test_classes_alone_need_the_formula(line):
    assert f"{line.split()[0]} implies symmetry" in reason(cif(line))
    assert "implies symmetry" in reason(cif([line, FORMULA[0]]))
    assert is_rock_salt(cif([line, *FORMULA], ALL_ROCK_SALT))
    assert "Z x formula is 4 x 'Na Cl'" in reason(cif([line, *FORMULA]))


@pytest.mark.parametrize(
    "lines",
    [
        [listed(["x1,x2,x3,x4"], "_space_group_symop_ssg_operation_algebraic")],
        ["_space_group_ssg_name 'F m -3 m(00g)'"], ["_space_group_ssg_name_WJJ 'x'", IDENTITY],
        ["_cell_modulation_dimension 1", IDENTITY], ["_space_group_magn.ssg_number_BNS 1.1", IDENTITY],
        ["_cell_wave_vector_x 0.2", IDENTITY], ["_cell_subsystem_code 1", IDENTITY],
    ],
)  # fmt: skip
def test_modulated_structures(lines):
    assert "modulated structure" in reason(cif(lines))
    if len(lines) == 1 and "loop_" not in lines[0]:
        assert "modulated structure" in reason(cif([*lines, listed(operations(FM3M))]))


@pytest.mark.parametrize(
    "form",
    ["_space_group_symop_magn_{}.xyz", "_space_group_symop.magn_{}_xyz", "_space_group.magn_symop_{}_xyz"],
)
def test_magnetic_operations(form):
    """Half of the operations reverse time: all of them move atoms, and so does the centring."""
    texts = operations(FM3M)
    half, centring = texts[:48], ["x,y,z,+1", "x,y+1/2,z+1/2,-1", "x+1/2,y,z+1/2,-1", "x+1/2,y+1/2,z,+1"]
    signed = [f"{text},{'+1' if k % 2 else '-1'}" for k, text in enumerate(half)]
    magnetic = listed(signed, form.format("operation"))
    names = [
        "_space_group_magn.number_BNS 1.1",
        "_parent_space_group.IT_number 225",
        '_space_group_magn.name_BNS "F m\' m"',
    ]
    assert is_rock_salt(cif([*names, magnetic, listed(centring, form.format("centering"))]))
    assert "no group" in reason(cif([*names, magnetic, listed(centring[:3], form.format("centering"))]))
    assert "lists no operations" in reason(cif(names[:1]))
    assert "lists no operations" in reason(cif(listed(centring, form.format("centering"))))


# ---- operations


def test_operations_that_are_no_group():
    texts = operations(FM3M)
    for missing in (0, 1, 57, 191):
        assert "are no group: the product" in reason(cif(listed(texts[:missing] + texts[missing + 1 :])))
    assert "191 symmetry operations are no group" in reason(cif(listed([texts[1], texts[1], *texts[2:]])))
    third = [text for k, text in enumerate(texts) if not 96 <= k < 144]
    assert "144 symmetry operations are no group" in reason(cif(listed(third)))
    assert "no group" in reason(cif(listed([*third, *third[48:96]])))  # one centring twice, one missing
    assert "no group" in reason(cif(listed(["-x,-y,-z"])))
    assert is_rock_salt(cif(listed([*texts, *texts[:10]])))
    assert is_rock_salt(cif(listed(texts[::-1])))


@pytest.mark.parametrize(
    ("texts", "count"),
    [
        (["x,y,z", "-X, -Y, -Z"], 2), (["+x,+y,+z", "1/2-x,1/2-y,.5-z"], 2), (["x, y, z",
        "x+0.5, y+0.5, z"], 2),
        (["x,y,z", "x+1/5,y,z", "x+2/5,y,z", "x+3/5,y,z", "x+4/5,y,z"], 5), (["x,y,z",
        "-x+3/2,-y,-z-1/2"], 2),
        (["x,y,z", "x+0.3333,y+.66667,z+0.333", "x+0.6667,y+.33333,z+0.667"], 3), (["x,y,z",
        "-x+0.246,-y,-z"], 2),
        (["x,y,z", "1x,-1*y,z"], 2),
    ],
)  # fmt: skip
def test_spellings_of_operations(texts, count):
    site = [("Na1", "Na", 0.11, 0.23, 0.37)]
    assert len(read_one(cif(listed(texts), site))) == count


@pytest.mark.parametrize("text", ["a,b,c", "x,y", "x,y,z,1", "x,y,2z", "x,y,z/2", "x,y,y", "x,y,", "x y z",
                                  "1,2,3", "x,y,z+1/0", "99999999999999999999x,y,z", "x,y,z+",
                                  "x1,x2,x3", "h,k,l", "x,y,zz",
                                  "?x,y,z"])  # fmt: skip
def test_texts_that_are_no_operation(text):
    assert "symmetry operations cannot be read" in reason(cif(listed(["x,y,z", text])))


def test_two_lists_of_operations():
    both = [listed(operations(FM3M)), listed(operations(FM3M)[::-1], "_symmetry_equiv_pos_as_xyz")]
    assert is_rock_salt(cif(both))
    assert "two lists of symmetry operations differ" in reason(
        cif([both[0], listed(["x,y,z"], "_symmetry_equiv_pos_as_xyz")])
    )


# ---- what contradicts the atoms


NAMED = ["_symmetry_space_group_name_H-M 'F m -3 m'", "_space_group_name_H-M_alt 'F 4/m -3 2/m'",
    "_symmetry_Int_Tables_number 225",
         "_space_group_name_Hall '-F 4 2 3'"]  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_only_the_identity_beside_a_name(name):
    assert "lists only the identity" in reason(cif([name, IDENTITY]))
    assert "Z x formula is 4 x 'Na Cl'" in reason(cif([name, IDENTITY, *FORMULA]))
    assert "lists only the identity" in reason(cif([name, IDENTITY, FORMULA[0], "_cell_formula_units_Z 1"]))
    # All atoms of the cell are listed: both give the same crystal.
    assert is_rock_salt(cif([name, IDENTITY], ALL_ROCK_SALT))
    assert is_rock_salt(cif([name, IDENTITY, *FORMULA], ALL_ROCK_SALT))
    moved = [(*site[:2], *(x + 0.01 * k for x in site[2:])) for k, site in enumerate(ALL_ROCK_SALT)]
    assert "lists only the identity" in reason(cif([name, IDENTITY], moved))
    assert len(read_one(cif([name, IDENTITY, *FORMULA], moved))) == 8
    # The primitive cell of a centred group.
    primitive = (3.988, 3.988, 3.988, 60, 60, 60)
    assert len(read_one(cif([name, IDENTITY], cell=primitive))) == 2


def test_part_of_the_sites_of_perovskite():
    sites = [("Sr1", "Sr", 0, 0, 0), ("Ti1", "Ti", 0.5, 0.5, 0.5), ("O1", "O", 0.5, 0.5, 0)]
    name, cell = "_symmetry_space_group_name_H-M 'P m -3 m'", (3.9, 3.9, 3.9, 90, 90, 90)
    assert "lists only the identity" in reason(cif([name, IDENTITY], sites, cell))
    assert read_one(cif(name, sites, cell)).get_chemical_formula() == "O3SrTi"
    assert "its formula is 'Sr Ti O3'" in reason(
        cif([IDENTITY, "_chemical_formula_sum 'Sr Ti O3'"], sites, cell)
    )


@pytest.mark.parametrize("hall", [PM3M, 1, 2, 227])
def test_operations_of_a_subgroup(hall):
    """They leave out atoms, unless these are listed as sites."""
    lines = [NAMED[0], listed(operations(hall))]
    assert "but _symmetry_space_group_name_H-M 'F m -3 m' is another group" in reason(cif(lines))
    assert space_group(read_one(cif(lines, ALL_ROCK_SALT))) == 225


def test_names_of_settings_outside_of_the_tables():
    """The list of operations counts, if it is as long as the name says."""
    group = gemmi.SpaceGroup("C 1 2/c 1").operations()
    group.change_basis_forward(gemmi.Op("x,y,x+z"))
    texts = [op.triplet() for op in group]
    cell, sites = (5, 6, 7, 90, 100, 90), [("Na1", "Na", 0.11, 0.23, 0.37)]
    assert len(read_one(cif(["_symmetry_space_group_name_H-M 'B 1 2/q 1'", listed(texts)], sites, cell))) == 8
    assert len(read_one(cif(["_symmetry_space_group_name_H-M 'X 1 2/d 1'", listed(texts)], sites, cell))) == 8
    assert "another group" in reason(
        cif(["_symmetry_space_group_name_H-M 'F 1 2/d 1'", listed(texts)], sites, cell)
    )
    assert "only the identity" in reason(cif(["_symmetry_space_group_name_H-M 'odd'", IDENTITY], sites, cell))


@pytest.mark.parametrize(
    "column", ["symmetry_multiplicity", "site_symmetry_multiplicity", "site_symmetry_order"]
)
def test_multiplicities(column):
    columns = [*COLUMNS, column]

    def text(lines, value, sites=ROCK_SALT):
        return cif(lines, [(*site, value) for site in sites], columns=columns)

    group = listed(operations(FM3M))
    good = ["48", "."] if column.endswith("order") else ["4", "48", "?", "4.0"]  # 48 as SHELXL-97 wrote it
    for value in good:
        assert is_rock_salt(text(group, value))
    for value in ("1", "8", "192"):
        assert f"given as {value}" in reason(text(group, value))
    assert "by the 1 symmetry operations" in reason(text(IDENTITY, "4"))
    assert "by the 1 symmetry operations" in reason(text([], "4"))
    assert len(read_one(text(IDENTITY, "1", ALL_ROCK_SALT))) == 8


@pytest.mark.parametrize(
    ("formula", "units", "good"),
    [
        ("Na Cl", "4", True), ("Na1 Cl1", "4", True), ("Cl4 Na4", "1", True), ("Na4 Cl4", "4", True),
        ("NA1 CL1", "4", True),
        ("Na2 Cl2", "2", True), ("Na Cl", "?", True), ("?", "4", True), ("?", "1", True), ("NaCl",
        "4.0", True),
        ("Na Cl", "2", False), ("Na Cl", "1", False), ("Na Cl", "8", False), ("Na4 Cl4", "2", False),
        ("?", "3", False),
        ("?", "8", False), ("Na Cl2", "4", False), ("Na Cl H", "?", False), ("Na0.9 Cl", "4", False),
        ("Na", "8", False),
        ("K Cl", "4", False), ("Na", "?", False),
    ],
)  # fmt: skip
def test_formula_and_its_number(formula, units, good):
    lines = [f"_chemical_formula_sum '{formula}'" if formula != "?" else "", f"_cell.formula_units_Z {units}"]
    for group, sites in (
        (listed(operations(FM3M)), ROCK_SALT),
        (IDENTITY, ALL_ROCK_SALT),
        ("", ALL_ROCK_SALT),
    ):
        text = cif([*lines, group], sites)
        if good:
            assert is_rock_salt(text)
        else:
            assert "its atoms make up Na4Cl4" in reason(text)


def test_what_other_readers_find():
    """The same atoms as pymatgen and ASE, for a file with everything in it."""
    lines = [
        "_symmetry_space_group_name_H-M 'R -3 c'",
        "_symmetry_Int_Tables_number 167",
        "_cell_formula_units_Z 6",
    ]
    lines += ["_chemical_formula_sum 'C1 Ca1 O3'", listed(operations(460), "_symmetry_equiv_pos_as_xyz")]
    text = cif(lines, CALCITE, HEXAGONAL)
    atoms = read_one(text)
    by_pymatgen = Structure.from_str(text, fmt="cif")
    assert len(by_pymatgen) == len(atoms) == 30
    distance = by_pymatgen.lattice.get_all_distances(by_pymatgen.frac_coords, atoms.get_scaled_positions())
    assert distance.min(axis=0).max() < 1e-3
    reference = crystal(["Ca", "C", "O"], [site[2:] for site in CALCITE], spacegroup=167, cellpar=HEXAGONAL)
    np.testing.assert_allclose(
        np.sort(atoms.get_all_distances(mic=True)), np.sort(reference.get_all_distances(mic=True)), atol=1e-9
    )


def monoclinic(gamma):
    sites = [("Ti1", "Ti", 0.12, 0.31, 0.07), ("O1", "O", 0.35, 0.62, 0.21), ("O2", "O", 0.78, 0.11, 0.33)]
    return cif("_symmetry_space_group_name_H-M 'P 21'", sites, (5, 6, 15, 90, 90, gamma))


@pytest.mark.parametrize("gamma", [90.6, 91, 92, 94, 95, 110])
def test_the_unique_axis_is_the_one_that_the_angles_tell(gamma):
    """However long the other axes are."""
    (atoms,) = read_cif(monoclinic(gamma))
    image = atoms.get_scaled_positions()[1]
    np.testing.assert_allclose(image, [0.88, 0.69, 0.57], atol=1e-8)


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("P 4 m m", (4, 4.5, 20, 90, 90, 90)),
        ("I 4/m m m", (4, 4.3, 12, 90, 90, 90)),
        ("P m m m", (4, 5, 20, 90, 90, 98)),
        ("P -3 m 1", (3, 3, 20, 90, 90, 112)),
        ("F m -3 m", (5.6, 5.6, 5.8, 90, 90, 90)),
    ],
)
def test_a_group_that_the_cell_cannot_have_is_refused(name, cell):
    sites = [("Ti1", "Ti", 0, 0, 0), ("O1", "O", 0.5, 0.5, 0.1)]
    (found,) = read_cif(cif(f"_symmetry_space_group_name_H-M '{name}'", sites, cell))
    assert isinstance(found, InvalidCrystalError)
    assert "does not fit" in str(found)


MGO = [("Mg1", "Mg", 0, 0, 0), ("O1", "O", 0.5, 0.5, 0.5)]


@pytest.mark.parametrize(
    "line",
    [
        "_International_Tables_number 225",
        "_sg_name 'F m -3 m'",
        "_sg_number 225",
        "_H-M 'F m -3 m'",
        "_hall '-F 4 2 3'",
    ],
)
def test_short_tags_of_symmetry_are_understood(line):
    (atoms,) = read_cif(cif(line, MGO, (4.21, 4.21, 4.21, 90, 90, 90)))
    assert len(atoms) == 8


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("Wyckoff_symbol", ("a", "b")),
        ("Wyckoff_symbol", ("4a", "4b")),
        ("Wyckoff_label", ("a", "b")),
        ("symmetry_Wyckoff", ("a", "b")),
        ("site_symmetry", ("m-3m", "m-3m")),
    ],
)
def test_special_positions_tell_of_symmetry(column, values, listed):
    lines = ["loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n"] if listed else []
    sites = [(*site, value) for site, value in zip(MGO, values, strict=True)]
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z", column)
    (found,) = read_cif(cif(lines, sites, (4.21, 4.21, 4.21, 90, 90, 90), columns))
    assert isinstance(found, InvalidCrystalError)
    # In P1 all positions are general.
    sites = [(*site, "1" if "site" in column else "1a") for site in MGO]
    (found,) = read_cif(cif(lines, sites, (4.21, 4.21, 4.21, 90, 90, 90), columns))
    assert len(found) == 2


@pytest.mark.parametrize("name", ["F d -3 m O2", "F d -3 m Z", "F d -3 m :2", "FD-3MO2"])
def test_icsd_names_of_the_second_origin(name):
    lines = f"_symmetry_space_group_name_H-M '{name}'\n_symmetry_Int_Tables_number 227"
    (atoms,) = read_cif(cif(lines, [("Si1", "Si", 0.125, 0.125, 0.125)], (5.43, 5.43, 5.43, 90, 90, 90)))
    assert len(atoms) == 8


@pytest.mark.parametrize("name", [r"Fm\bar{3}m", r"F m \bar 3 m", r"Fm\overline{3}m"])
def test_names_in_latex(name):
    (atoms,) = read_cif(cif(f"_symmetry_space_group_name_H-M '{name}'", MGO, (4.21, 4.21, 4.21, 90, 90, 90)))
    assert len(atoms) == 8
