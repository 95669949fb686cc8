"""CIF: syntax, sites and the writer. Symmetry is in test_cif_symmetry.py."""

import io

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import read as ase_read
from ase.spacegroup import crystal
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Structure
from pymatgen.core.structure_matcher import StructureMatcher
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.cif import CifWriter

from repose.errors import InvalidCrystalError
from repose.io.cif import read_cif, write_cif
from repose.io.convert import to_atoms
from support.cif_files import (
    ALL_ROCK_SALT,
    COLUMNS,
    FM3M,
    ROCK_SALT,
    cif,
    listed,
    operations,
    read_one,
    reason,
    space_group,
)
from support.crystals import random_crystal

# Spinel MgAl2O4 in its usual setting, rutile TiO2, wurtzite ZnO, calcite (rhombohedral lattice).
SPINEL = [(0.125,) * 3, (0.5,) * 3, (0.2624,) * 3]
RUTILE = [(0, 0, 0), (0.3053, 0.3053, 0)]
CALCITE = [(0, 0, 0), (0, 0, 0.25), (0.2578, 0, 0.25)]
REAL = {
    "spinel": lambda: crystal("MgAlO", SPINEL, spacegroup=227, setting=2, cellpar=[8.083] * 3 + [90] * 3),
    "rutile": lambda: crystal("TiO", RUTILE, spacegroup=136, cellpar=[4.594, 4.594, 2.959, 90, 90, 90]),
    "wurtzite": lambda: bulk("ZnO", "wurtzite", a=3.25, c=5.2),
    "calcite": lambda: crystal("CaCO", CALCITE, spacegroup=167, cellpar=[4.99, 4.99, 17.06, 90, 90, 120]),
}


def distances(atoms):
    """All shortest distances between atoms, which see neither wrapping nor orientation."""
    return atoms.get_all_distances(mic=True)


@pytest.mark.parametrize("name", REAL)
def test_symmetric_cif(name):
    """The crystals that pymatgen writes with few sites and all operations, against pymatgen's own reader."""
    atoms = REAL[name]()
    text = str(CifWriter(AseAtomsAdaptor.get_structure(atoms), symprec=1e-3))
    assert text.count("\n  ") < 400
    (parsed,) = read_cif(text)
    reference = Structure.from_str(text, fmt="cif")
    assert len(parsed) == len(reference) == len(atoms)
    assert StructureMatcher(primitive_cell=False, scale=False).get_rms_dist(
        AseAtomsAdaptor.get_structure(parsed), reference
    )[1] < 1e-4  # fmt: skip


def test_special_positions_are_met_exactly():
    """A coordinate of a third, written with four digits, becomes one atom and not three near each other."""
    cell = np.array([[3.2, 0, 0], [-1.6, 1.6 * 3**0.5, 0], [0, 0, 5.2]])
    sites = np.array([[0.3333, 0.6667, 0.25]])
    text = write_cif([12], sites @ cell, cell, "hcp").replace(
        "'x, y, z'", "'x, y, z'\n'-y, x-y, z'\n'-x+y, -x, z'"
    )
    (parsed,) = read_cif(text)
    assert len(parsed) == 1
    assert parsed.get_scaled_positions()[0] == pytest.approx([1 / 3, 2 / 3, 0.25], abs=1e-12)


@given(seed=st.integers(0, 10_000), left=st.booleans())
def test_cif_round_trip(seed, left):
    (atoms,) = to_atoms(random_crystal(seed))
    if left:
        atoms.set_cell(atoms.cell.array * [[1], [1], [-1]], scale_atoms=False)
    (parsed,) = read_cif(write_cif(atoms.numbers, atoms.positions, atoms.cell.array, "a name"))
    assert parsed.numbers.tolist() == atoms.numbers.tolist()
    fractional = parsed.positions @ np.linalg.inv(parsed.cell.array)
    sign = np.sign(np.linalg.det(atoms.cell.array))
    np.testing.assert_allclose(
        fractional * sign, atoms.positions @ np.linalg.inv(atoms.cell.array), atol=1e-9
    )
    # The triple products of interatomic vectors tell a crystal from its mirror image.
    vectors = np.diff(parsed.positions[:4], axis=0), np.diff(atoms.positions[:4], axis=0)
    if len(atoms) > 3:
        assert np.linalg.det(vectors[0]) == pytest.approx(np.linalg.det(vectors[1]), abs=1e-6)


# ---- syntax


P1 = cif(listed(["x,y,z"]), ALL_ROCK_SALT)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace("\n", " # said\n"),
        lambda text: text.replace("\n", "\n\n# a line of its own\n  \n"),
        lambda text: text.replace("\n", "  \t\n") + "\x1a",
        lambda text: text.replace(" ", "\u00a0"),
        lambda text: text.upper().replace("NA", "Na").replace("CL", "Cl"),
        lambda text: text.replace("_atom_site_", "_atom_site."),
        lambda text: text.replace("_cell_", "_cell.").replace("_atom_site_", "_Atom_Site."),
        lambda text: "#\\#CIF_2.0\n" + text,
        lambda text: text.replace("_cell_length_a", "_x.k [0 0 1/2]\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_publ_author_name 'J\u00f8rgensen, S.'\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_publ_title\n;\nloop_\ndata_of_all\n;\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_publ_author_name 'X. Y', and Z\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_publ_section_title 'It is open\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_audit_creation_date\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_symmetry_space_group_name_H-M P 1\n_cell_length_a"),
        lambda text: text.replace("_cell_length_a", "_audit_update 1\n_audit_update 2\n_cell_length_a"),
        lambda text: text.replace(" 0.5 ", " 0.50000(12) ").replace(" 90", " 90.0(1)"),
        lambda text: text.replace(" 0.5 ", " +.5 ").replace("0.5\n", "5e-1\n"),
        lambda text: text + "loop_\n_geom_bond_atom_site_label_1\n_geom_bond_site_symmetry_2\nNa1 2_555\n",
        lambda text: text + "loop_\n_atom_site_aniso_label\n_atom_site_aniso_U_11\nNa0 0.1\n",
        lambda text: text + "data_references\n_publ_author_name 'X Y'\n",
    ],
)  # fmt: skip
def test_text_in_many_forms(change):
    atoms = read_one(change(P1))
    assert atoms.get_chemical_symbols() == ["Na"] * 4 + ["Cl"] * 4
    assert atoms.cell.lengths() == pytest.approx([5.64] * 3)
    np.testing.assert_allclose(
        atoms.get_scaled_positions(wrap=False), [site[2:] for site in ALL_ROCK_SALT], atol=1e-12
    )


def test_a_bad_block_costs_no_other():
    good, row = cif(name="a", sites=ALL_ROCK_SALT), cif(name="b").replace("Na1 Na 0 0 0", "Na1 Na 0 0")
    quote = cif("_chemical_formula_sum 'open", name="c")
    first, second, third, last = read_cif(good + row + quote + good.replace("data_a", "data_d"))
    assert len(first) == len(last) == 8
    line = (good + row).split("\n").index("loop_", good.count("\n")) + 1
    assert f"line {line}: Wrong number of values" in str(second)
    assert "unterminated" in str(third)


def test_reasons_name_the_line():
    text = P1.replace("Cl1 Cl 0.5", "Cl1 0.5")
    with pytest.raises(
        InvalidCrystalError, match=f"line {text[: text.rindex('loop_')].count(chr(10)) + 1}: "
    ):
        read_cif(text)
    for text in (
        "Dear editor",
        "data_x\n_cell_length_a 'open\n",
        "data_x\n_a\n;\nopen\n",
        "data_x\nnonsense",
        "data_x\n_cell_length_a \x00",
    ):
        with pytest.raises(InvalidCrystalError, match=r"it is not CIF, or ends early \(line [0-9]"):
            read_cif(text)


def test_two_lists_of_atoms():
    loop = P1[P1.rindex("loop_") :]
    for second in (loop, loop.replace("Na", "K"), "loop_\n_atom_site_occupancy\n1\n1\n"):
        assert "two lists of atoms" in reason(P1 + second)
    half = "\n".join(
        ["loop_", "_atom_site.label", "_atom_site.fract_x", "_atom_site.fract_y", "_atom_site.fract_z"]
    )
    assert "two lists of atoms" in reason(P1 + half + "\nK1 0.1 0.1 0.1\n")


def test_contradicting_repetition():
    assert "_cell_length_a occurs twice" in reason(P1 + "_cell_length_a 5.7\n")
    assert "occurs twice" in reason(P1 + "_cell.length_a 5.7\n")
    assert len(read_one(P1 + "_cell_length_a 5.64\n")) == 8


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("_cell_angle_beta 90", "", "no complete cell"),
        ("_cell_angle_beta 90", "_cell_angle_beta ?", "no complete cell"),
        ("_cell_angle_beta 90", "_cell_angle_beta 190", "no volume"),
        ("_cell_length_a 5.64", "_cell_length_a 0", "no volume"),
        ("_cell_length_a 5.64", "_cell_length_a 1e999", "no volume"),
        ("_cell_length_a 5.64", "_cell_length_a -5.64", "no volume"),
        ("Na1 Na 0 ", "Na1 Na 1_0 ", "site 'Na1' has coordinates ['1_0', '0.5', '0.5']"),
        ("Na1 Na 0 ", "Na1 Na ? ", "three finite numbers"),
        ("Na1 Na 0 ", "Na1 Na nan ", "three finite numbers"),
        ("Na1 Na 0 ", "Na1 Na 1e999 ", "three finite numbers"),
        ("Na1 Na 0 ", "Na1 Na 0,5 ", "three finite numbers"),
        ("_atom_site_fract_z", "_atom_site_fract_w", "lists no atoms"),
    ],
)
def test_values_that_are_none(old, new, words):
    assert words in reason(P1.replace(old, new))


# ---- sites


def test_labels_stand_in_for_types():
    for unknown in ("?", "."):
        text = cif(sites=[(label, unknown, *xyz) for label, _, *xyz in ALL_ROCK_SALT])
        assert read_one(text).get_chemical_formula() == "Cl4Na4"
    columns = [column for column in COLUMNS if column != "type_symbol"]
    capitals = [(label.upper(), *xyz) for label, _, *xyz in ALL_ROCK_SALT]
    assert read_one(cif(sites=capitals, columns=columns)).get_chemical_formula() == "Cl4Na4"
    types = [(kind.upper() + "1+", *xyz) for _, kind, *xyz in ALL_ROCK_SALT]
    assert read_one(cif(sites=types, columns=COLUMNS[1:])).get_chemical_formula() == "Cl4Na4"
    assert "site 'Na0' is of no known element" in reason(P1.replace("Na0 Na", "Na0 M"))


def test_dummy_sites_are_left_out():
    sites = [(*site, "d") for site in ALL_ROCK_SALT] + [
        ("Cg1", "?", 0.1, 0.2, 0.3, "dum"),
        ("X", "X", "?", "?", "?", "Dum"),
    ]
    assert len(read_one(cif(sites=sites, columns=[*COLUMNS, "calc_flag"]))) == 8
    assert "dummies" in reason(cif(sites=sites[-1:], columns=[*COLUMNS, "calc_flag"]))


def sites_with(value, other="."):
    """Rock salt with one more column: this for the last site, another for the rest."""
    return [(*site, value if k == 7 else other) for k, site in enumerate(ALL_ROCK_SALT)]


@pytest.mark.parametrize(
    ("column", "good", "bad", "words"),
    [
        ("occupancy", ["1", "1.0", "1.", "1.000(2)", "?"], ["0.5", ".75(1)", "0", "2", ".998"], "partial"),
        ("occupancy", ["1.0005"], ["full", "1/2", "nan"], "site 'Cl3' has the occupancy"),
        ("attached_hydrogens", ["0", "?"], ["1", "2"], "hydrogen atoms attached"),
        ("disorder_group", ["1", "0", "?", "A"], ["-1"], "partial occupancy: site 'Cl3'"),
        ("label_alt_id", ["A", "?"], [], ""),
    ],
)  # fmt: skip
def test_disorder_and_what_is_missing(column, good, bad, words):
    for value in good:
        assert len(read_one(cif(sites=sites_with(value), columns=[*COLUMNS, column]))) == 8
    for value in bad:
        assert words in reason(cif(sites=sites_with(value), columns=[*COLUMNS, column]))


@pytest.mark.parametrize("column", ["disorder_group", "label_alt_id", "pdbx_PDB_model_num"])
def test_alternatives(column):
    text = cif(sites=sites_with("2", "1"), columns=[*COLUMNS, column])
    assert "site 'Cl3' belongs to one of several alternatives" in reason(text)


def test_groups_without_their_hydrogen():
    sites = [("Mg1", 0, 0, 0), ("OH1", 0.5, 0.5, 0.5)]
    columns = [column for column in COLUMNS if column != "type_symbol"]
    assert "site 'OH1' ('OH1') holds hydrogen" in reason(cif(sites=sites, columns=columns))
    assert "site 'O1' ('Wat')" in reason(cif(sites=[("O1", "Wat", 0, 0, 0)]))
    atoms = read_one(cif(sites=[*sites, ("H1", 0.5, 0.5, 0.67)], columns=columns))
    assert atoms.get_chemical_formula() == "HMgO"


def test_cartesian_coordinates_of_mmcif():
    cell = (5.0, 6.0, 7.0, 80, 95, 110)
    fractional = np.array([[0.1, 0.2, 0.3], [0.6, 0.7, 0.1]])
    reference = Atoms("MgO", cell=cell, scaled_positions=fractional)
    columns = ("type_symbol", "label_atom_id", "Cartn_x", "Cartn_y", "Cartn_z")
    sites = [("Mg", "MG1", *reference.positions[0]), ("O", "O1", *reference.positions[1])]
    text = cif(sites=sites, columns=columns, cell=cell).replace("_atom_site_", "_atom_site.")
    np.testing.assert_allclose(read_one(text).get_scaled_positions(), fractional, atol=1e-9)
    # Axes of the file's own: a along y.
    turn = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    matrix = np.linalg.inv(reference.cell.array @ turn).T
    own = [
        f"_atom_sites.fract_transf_matrix[{i + 1}][{j + 1}] {matrix[i, j]:.9f}"
        for i in range(3)
        for j in range(3)
    ]
    turned = [(*site[:2], *(np.array(site[2:]) @ turn)) for site in sites]
    text = cif(own, turned, cell, columns).replace("_atom_site_", "_atom_site.")
    np.testing.assert_allclose(read_one(text).get_scaled_positions(), fractional, atol=1e-7)
    assert "is incomplete" in reason(text.replace(own[4], ""))
    assert "does not fit its cell" in reason(text.replace(own[0], own[0].split()[0] + " 0.4"))


def test_sites_in_one_place():
    group = listed(operations(FM3M))
    assert len(read_one(cif(group, ALL_ROCK_SALT))) == 8  # all atoms and all operations
    mixed = [*ROCK_SALT, ("K1", "K", 0.5, 0, 0.5)]
    assert "sites 'Na1' and 'K1' are in the same place" in reason(cif(group, mixed))


# ---- writer


@pytest.mark.parametrize("number", [152, 154])
@pytest.mark.parametrize(
    "basis",
    [np.eye(3), np.eye(3)[[1, 0, 2]], np.diag([1, 1, -1]), -np.eye(3), [[1, 1, 0], [0, -1, 0], [0, 0, 1]]],
)
def test_quartz_keeps_its_hand(number, basis):
    """A cell with vectors in another order or sense describes the same crystal, not its mirror image."""
    sites = (
        [(0.4697, 0, 1 / 3), (0.4133, 0.2672, 0.2188)]
        if number == 152
        else [(0.4697, 0, 2 / 3), (0.4133, 0.2672, 0.7812)]
    )
    atoms = crystal(["Si", "O"], sites, spacegroup=number, cellpar=[4.916, 4.916, 5.405, 90, 90, 120])
    assert space_group(atoms) == number
    text = write_cif(atoms.numbers, atoms.positions, np.array(basis) @ atoms.cell.array, "quartz")
    by_pymatgen = AseAtomsAdaptor.get_atoms(Structure.from_str(text, fmt="cif"))
    by_ase = ase_read(io.StringIO(text), format="cif")
    for parsed in (read_one(text), by_ase, by_pymatgen):
        assert space_group(parsed) == number
        np.testing.assert_allclose(np.sort(distances(parsed)), np.sort(distances(atoms)), atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        (["MgA", "O1'"], True), (["Mg(1)", "O_2*"], True), (["Mg.1", "O+1"], True), (None, False),
        (["Mg1", "Mg1"], False), (["Mg 1", "O1"], False), (["'Mg", "O1"], False), (["_Mg", "O1"], False),
        (["data_x", "O1"], False), (["loop_", "O1"], False), (["Mg#", "O1"], False), (["", "O1"], False),
        (["Mg1"], False), (["Mg\u00e9", "O1"], False), (["Mg\n", "O1"], False), (["?", "."], False),
    ],
)  # fmt: skip
def test_labels_are_written_where_they_can_be(labels, kept):
    atoms = bulk("MgO", "rocksalt", a=4.2)
    text = write_cif(atoms.numbers, atoms.positions, atoms.cell.array, "x", labels=labels)
    expected = labels if kept else ["Mg1", "O1"]
    assert Structure.from_str(text, fmt="cif").labels == expected
    assert ase_read(io.StringIO(text), format="cif").get_chemical_symbols() == ["Mg", "O"]
    assert read_one(text).get_chemical_symbols() == ["Mg", "O"]


def test_labels_of_sites_are_kept_where_they_say_something(tmp_path):
    """From P1 to every format that has them; names made of symbol and number are not carried along."""
    from repose.io.files import read, write

    atoms = bulk("MgO", "rocksalt", a=4.2)
    for labels, kept in ((["Mg_a", "O_b"], True), (["Mg1", "O1"], False), (["Mg", "O"], False)):
        text = write_cif(atoms.numbers, atoms.positions, atoms.cell.array, "x", labels)
        (found,) = read_cif(text)
        assert ("labels" in found.arrays) is kept
        if not kept:
            continue
        assert found.arrays["labels"].tolist() == labels
        for format, suffix in (("cif", "cif"), ("json", "json"), ("extxyz", "extxyz")):
            path = tmp_path / f"x.{suffix}"
            assert "site labels" not in write(found, path, format)
            (entry,) = read(path)
            own = entry.crystal.labels if suffix == "json" else entry.crystal.arrays["labels"].tolist()
            assert own == labels
        assert "site labels" in write(found, tmp_path / "x.vasp", "poscar")
