"""Relaxations written by VASP and ASE: units, signs, continuity, and refusals."""

import gzip
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.filters import FrechetCellFilter
from ase.io import Trajectory, read, write
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from repose.cli.data import app
from repose.data.dataset import Dataset
from repose.data.frames import evenly_spaced, select_paths
from repose.data.importers.formats import detect_format, find_sources, import_source, import_sources
from repose.data.importers.trajectories import trajectory_to_pair, unwrap
from repose.data.importers.vasprun import run_name
from repose.data.splits import GroupSplit
from repose.errors import DatasetError
from support.reference_pairs import PATHS, REFERENCE, split_up
from support.vasp_files import Run, Step, outcar, vasprun_xml

seeds = st.integers(0, 2**31)


def only(path, kind="auto"):
    """Return the only pair of a file, or the reason of its refusal."""
    (source,) = find_sources([path], kind)
    pairs, refused = split_up(import_source(source))
    assert len(pairs) + len(refused) == 1
    return pairs[0] if pairs else refused[0].reason


def assert_frames(pair, steps, tolerance=1e-10):
    """Check that all numbers of a path are those of the steps and their calculators."""
    assert len(pair.path) == len(steps)
    np.testing.assert_array_equal(pair.numbers, steps[0].numbers)
    np.testing.assert_array_equal(pair.pbc, steps[0].pbc)
    for frame, atoms in zip(pair.path, steps, strict=True):
        np.testing.assert_allclose(frame.positions, atoms.positions, rtol=0, atol=tolerance)
        np.testing.assert_allclose(frame.cell, atoms.cell.array, rtol=0, atol=tolerance)
        assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=tolerance)
        forces = atoms.get_forces(apply_constraint=False)
        np.testing.assert_allclose(frame.forces, forces, rtol=0, atol=tolerance)
        stress = atoms.get_stress(voigt=False, apply_constraint=False)
        np.testing.assert_allclose(frame.stress, stress, rtol=0, atol=tolerance)
    for mine, frame in (
        (pair.positions, pair.path[0].positions),
        (pair.cell, pair.path[0].cell),
        (pair.relaxed_positions, pair.path[-1].positions),
        (pair.relaxed_cell, pair.path[-1].cell),
    ):
        np.testing.assert_array_equal(mine, frame)


# ---- vasprun.xml


def relaxation(**changes) -> Run:
    """Return MgO in three steps; its oxygen crosses the border of the cell twice."""
    forces = np.array([[0.3, 0.0, 0.01], [-0.3, 0.0, -0.01]])
    stress = np.array([[12.0, 1.0, 2.0], [1.0, -8.0, 3.0], [2.0, 3.0, 4.0]])
    steps = [
        Step(
            cell=np.diag([4.0, 4.2, 4.4]) * (1 + 0.01 * k) + 0.1 * np.eye(3, k=-1),
            fractional=np.array([[0.5, 0.5, 0.5], oxygen]),
            free_energy=-10.0 - 0.5 * k,
            forces=forces * 0.2**k,
            stress=stress * 0.2**k,
            entropy=0.002,
        )
        for k, oxygen in enumerate(([0.02, 0.0, 0.99], [-0.01, 0.01, 1.01], [0.03, -0.02, 1.02]))
    ]
    return Run(["Mg", "O"], steps, **changes)


def write_run(path, run):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = vasprun_xml(run).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["vasprun.xml", "vasprun.xml.gz"])
def test_numbers_of_vasprun_are_converted(tmp_path, name):
    run = relaxation()
    pair = only(write_run(tmp_path / "MgO-1" / name, run))
    assert (pair.id, pair.tags) == ("MgO-1", {"isif": "3"})
    assert pair.numbers.tolist() == [12, 8]
    assert pair.pbc.all()
    # By hand: 1 kB = 1e8 Pa = 1e8 / 1.602176634e-19 eV/m^3 = 6.24150907e-4 eV/A^3, and the sign turns.
    kilobar = 6.241509074e-4
    assert pair.path[0].stress[0, 0] == pytest.approx(-12 * kilobar, rel=1e-7)
    assert pair.path[0].stress[1, 2] == pytest.approx(-3 * kilobar, rel=1e-7)
    # energy(sigma->0), from the last electronic step, not the wrong one of the whole step.
    assert [f.energy for f in pair.path] == pytest.approx([-9.998, -10.498, -10.998], abs=1e-10)
    for frame, step in zip(pair.path, run.steps, strict=True):
        np.testing.assert_allclose(frame.stress, -kilobar * step.stress, rtol=0, atol=1e-9)
        np.testing.assert_allclose(frame.forces, step.forces, rtol=0, atol=1e-8)
        np.testing.assert_allclose(frame.cell, step.cell, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("vasprun.xml", "OUTCAR"),
        ("vasprun.xml.gz", "OUTCAR.gz"),
        ("MgO.vasprun.xml", "MgO.OUTCAR"),
        ("vasprun.relax1.xml", "OUTCAR.relax1.gz"),
    ],
)
def test_charges_are_those_of_the_first_table_of_outcar(tmp_path, name, beside):
    path = write_run(tmp_path / name, relaxation())
    assert only(path).charges is None
    text = outcar([[0.1, 0.4, 0.5], [1.5, 3.25, 4.75]], [[9.0, 9.0, 18.0], [9.0, 9.0, 18.0]])
    (tmp_path / beside).write_bytes(gzip.compress(text) if beside.endswith(".gz") else text)
    assert only(path).charges.tolist() == [0.5, 4.75]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" total charge  \n\n# of ion",
        outcar([[0.1, 0.5]]),
        outcar([[0.1, 0.5]] * 2).replace(b"0.500", b"*****"),
        gzip.compress(outcar([[0.1, 0.5]] * 2)),
    ],
    ids=["empty", "cut off", "other atoms", "stars", "not text"],
)
def test_without_a_table_for_all_atoms_there_are_no_charges(tmp_path, text):
    (tmp_path / "OUTCAR").write_bytes(text)
    assert only(write_run(tmp_path / "vasprun.xml", relaxation())).charges is None


def test_wrapped_coordinates_become_a_continuous_path(tmp_path):
    """The file has 0.99, 0.01, 0.02 along c; the first frame is not changed."""
    run = relaxation()
    pair = only(write_run(tmp_path / "vasprun.xml", run))
    assert "<v> 0.99000000  0.01000000  0.01000000 </v>" in (tmp_path / "vasprun.xml").read_text()
    for frame, step in zip(pair.path, run.steps, strict=True):
        np.testing.assert_allclose(
            frame.positions @ np.linalg.inv(frame.cell), step.fractional, rtol=0, atol=1e-7
        )


@pytest.mark.parametrize(("pressure", "tolerance"), [(0.0, 1e-9), (50.0, 1e-5)])
def test_ase_reads_the_same_from_vasprun(tmp_path, pressure, tolerance):
    """With a pressure, ASE uses the older elementary charge of VASP."""
    path = write_run(tmp_path / "vasprun.xml", relaxation(settings={"PSTRESS": pressure}))
    pair = only(path)
    steps = read(path, ":", format="vasp-xml")
    assert_frames(pair, [place(a, f.positions) for a, f in zip(steps, pair.path, strict=True)], tolerance)
    assert pair.tags.get("pstress_kB") == ("50" if pressure else None)


def place(atoms, positions):
    """Return the crystal with its atoms, which ASE leaves wrapped, in other periodic images."""
    images = (positions - atoms.positions) @ np.linalg.inv(atoms.cell.array)
    np.testing.assert_allclose(images, images.round(), atol=1e-7)
    moved = atoms.copy()
    moved.positions = positions
    moved.calc = SinglePointCalculator(moved, **atoms.calc.results)
    return moved


def test_steps_that_did_not_converge_have_no_labels(tmp_path):
    run = relaxation()
    run.steps[1].electronic = 60
    pair = only(write_run(tmp_path / "vasprun.xml", run))
    assert [f.energy is None for f in pair.path] == [False, True, False]
    assert pair.path[1].forces is None
    assert pair.path[1].stress is None


def test_numbers_that_did_not_fit_become_none(tmp_path):
    path = write_run(tmp_path / "vasprun.xml", relaxation())
    path.write_text(path.read_text().replace("12.00000000", "***********"))
    pair = only(path)
    assert [f.stress is None for f in pair.path] == [True, False, False]
    assert pair.path[0].forces is not None


def last(run, **changes):
    return replace(run, steps=[*run.steps[:-1], replace(run.steps[-1], **changes)])


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (relaxation(settings={"NSW": 3}), "NSW=3"),
        (relaxation(settings={"IBRION": 0}), "molecular dynamics"),
        (relaxation(settings={"IBRION": 5}), "not a relaxation"),
        (relaxation(incar={"ML_LMLFF": True}), "force field"),
        (relaxation(incar={"IMAGES": 4}), "elastic band"),
        (replace(relaxation(), steps=relaxation().steps[:1]), "1 ionic step;"),
        (last(relaxation(), electronic=60), "NELM=60"),
        (last(relaxation(), forces=np.full((2, 3), 0.02)), "0.035 eV/A"),
        (last(relaxation(), fractional=np.full((2, 3), 0.5)), "0.00 A apart"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_runs_that_are_not_converged_relaxations_are_refused(tmp_path, run, reason):
    found = only(write_run(tmp_path / "vasprun.xml", run))
    assert isinstance(found, str)
    assert reason in found


def test_forces_on_fixed_atoms_do_not_count_for_convergence(tmp_path):
    run = last(relaxation(selective=["F  F  F", "T  T  T"]), forces=np.array([[0.5, 0, 0], [0, 0, 0.01]]))
    pair = only(write_run(tmp_path / "vasprun.xml", run))
    assert pair.path[-1].forces[0, 0] == 0.5


@pytest.mark.parametrize("name", ["vasprun.xml", "vasprun.xml.gz"])
@given(share=st.floats(0.01, 0.99))
def test_a_killed_job_affects_no_other(tmp_path_factory, name, share):
    root = tmp_path_factory.mktemp("runs")
    for folder in "abc":
        path = write_run(root / folder / name, relaxation())
    path = root / "b" / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    pairs, refused = split_up(import_sources(find_sources([root]), assign=GroupSplit()))
    assert [p.id for p in pairs] == ["a", "c"]
    (refusal,) = refused
    assert refusal.id == "b"
    assert "if the job was killed" in refusal.reason


@pytest.mark.parametrize(
    "content", [b"", b"\x1f\x8b\x08broken", b"<modeling></modeling>", b"<html><p></html>"]
)
@pytest.mark.parametrize("name", ["vasprun.xml", "vasprun.xml.gz"])
def test_files_that_are_not_vasprun_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "not a complete vasprun.xml" in only(tmp_path / name)


def test_runs_are_found_and_named(tmp_path):
    root = tmp_path / "runs"
    names = [
        *("vasprun.xml", "GaAs.vasprun.xml", "vasprun_3.xml.gz", "OUTCAR.xml"),
        *("NaCl/vasprun.xml", "KCl/relax/vasprun.xml.gz", "LiF/relax/vasprun.xml", "LiF/vasprun.relax2.xml"),
    ]
    for name in names:
        write_run(root / name, relaxation())
    sources = find_sources([root])
    assert {s.format for s in sources} == {"vasprun"}
    assert sorted(s.name for s in sources) == sorted(
        ["runs", "GaAs", "vasprun_3", "NaCl", "KCl/relax", "LiF/relax", "LiF/vasprun.relax2"]
    )
    pairs, refused = split_up(import_sources(sources, assign=GroupSplit()))
    assert not refused
    assert {p.id for p in pairs} == {s.name for s in sources}
    assert run_name(root / "NaCl" / "vasprun.xml") == "NaCl"
    assert run_name(root / "vasprun_3.xml.gz") == "vasprun_3"
    assert detect_format(root / "OUTCAR.xml") is None


def test_the_same_run_twice_is_refused(tmp_path):
    for name in ("a/vasprun.xml", "a/vasprun.xml.gz"):
        write_run(tmp_path / name, relaxation())
    pairs, refused = split_up(import_sources(find_sources([tmp_path]), assign=GroupSplit()))
    assert [p.id for p in pairs] == ["a"]
    assert "already imported" in refused[0].reason


def test_a_folder_of_runs_from_the_command_line(tmp_path):
    for name in ("MgO-1", "MgO-2", "killed"):
        path = write_run(tmp_path / "runs" / name / "vasprun.xml", relaxation())
    path.write_bytes(path.read_bytes()[:5000])
    arguments = ["import", tmp_path / "runs", "--out", tmp_path / "set", "--format", "vasprun"]
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 1
    assert "refused: killed: " in result.stderr
    assert "killed" in (tmp_path / "set" / "refused.csv").read_text()
    pairs = list(Dataset(tmp_path / "set"))
    assert [p.id for p in pairs] == ["MgO-1", "MgO-2"]
    assert all(f.stress is not None for p in pairs for f in p.path)


# ---- trajectories of ASE


def relax(path, seed=0, constraint=None, steps=12):
    """Relax a strained, rattled crystal of copper and gold, and its cell, with EMT."""
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[0] = "Au"
    rng = np.random.default_rng(seed)
    atoms.set_cell(atoms.cell @ (np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(scale=0.1, size=(4, 3))
    atoms.positions[1] -= 5 * atoms.cell[0]  # unwrapped
    atoms.set_constraint(constraint)
    atoms.calc = EMT()
    with BFGS(FrechetCellFilter(atoms), trajectory=str(path), logfile=None) as optimizer:
        optimizer.run(fmax=0.01, steps=steps)
    return Trajectory(path)


@pytest.mark.parametrize("seed", range(3))
def test_a_relaxation_by_ase_is_imported_exactly(tmp_path, seed):
    steps = relax(tmp_path / "CuAu-7.traj", seed)
    pair = only(tmp_path / "CuAu-7.traj")
    assert pair.id == "CuAu-7"
    assert len(steps) > 5
    assert_frames(pair, steps)
    write(tmp_path / "CuAu-8.extxyz.gz", [*steps])
    other = only(tmp_path / "CuAu-8.extxyz.gz")
    assert other.id == "CuAu-8"
    assert_frames(other, steps, tolerance=1e-7)  # the digits of the file


def test_forces_on_constrained_atoms_are_kept(tmp_path):
    steps = relax(tmp_path / "x.traj", constraint=FixAtoms([1, 2]))
    assert not steps[0].get_forces()[1].any()
    pair = only(tmp_path / "x.traj")
    assert_frames(pair, steps)
    assert np.linalg.norm(pair.path[0].forces[1]) > 1e-3
    write(tmp_path / "x.extxyz", [*steps])
    assert np.linalg.norm(only(tmp_path / "x.extxyz").path[0].forces[1]) > 1e-3


def test_molecular_dynamics_is_refused(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = EMT()
    with VelocityVerlet(atoms, 1 * units.fs, trajectory=str(tmp_path / "x.traj")) as dynamics:
        dynamics.run(3)
    assert "molecular dynamics" in only(tmp_path / "x.traj")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "x.traj"
    relax(path, steps=3).close()
    return path.read_bytes()


@given(share=st.floats(0, 0.99))
def test_a_trajectory_that_is_cut_off_is_refused(tmp_path_factory, written, share):
    root = tmp_path_factory.mktemp("cut")
    (root / "a.traj").write_bytes(written[: int(share * len(written))])
    (root / "b.traj").write_bytes(written)
    pairs, refused = split_up(import_sources(find_sources([root]), assign=GroupSplit()))
    assert [p.id for p in pairs] == ["b"]
    assert [r.id for r in refused] == ["a"]


def frames_of(energy=True, **changes):
    """Return three steps of sodium chloride, periodic in two directions."""
    frames = []
    for k in range(3):
        atoms = Atoms("NaCl", [[0, 0, 0], [0, 0, 2.6 + 0.05 * k]], cell=[4 + 0.1 * k, 4, 12], pbc=(1, 1, 0))
        if energy:
            atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - k, forces=np.full((2, 3), 0.1))
        frames.append(atoms)
    return frames


@pytest.mark.parametrize("suffix", ["traj", "extxyz"])
def test_frames_without_energy_have_none(tmp_path, suffix):
    frames = frames_of()
    frames[1].calc = None
    write(tmp_path / f"x.{suffix}", frames)
    pair = only(tmp_path / f"x.{suffix}")
    assert [f.energy for f in pair.path] == [-1.0, None, -3.0]
    assert [f.forces is None for f in pair.path] == [False, True, False]
    assert [f.stress for f in pair.path] == [None] * 3
    assert pair.pbc.tolist() == [True, True, False]


def swap(frames):
    frames[2] = frames[2][[1, 0]]


def add(frames):
    frames[1] = frames[1] + Atoms("H", [[2, 2, 2]])


def open_up(frames):
    frames[2].pbc = False


def alone(frames):
    del frames[1:]


def lose(frames):
    frames[1].positions[0, 0] = np.nan


@pytest.mark.parametrize("suffix", ["traj", "extxyz"])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (swap, "frame 2 (ClNa)"),
        (add, "frame 1 (HClNa)"),
        (open_up, "frame 2 is periodic in other"),
        (alone, "1 frame;"),
        (lose, "not finite"),
    ],
)
def test_files_that_are_not_one_relaxation_are_refused(tmp_path, suffix, spoil, reason):
    frames = frames_of()
    spoil(frames)
    write(tmp_path / f"x.{suffix}", frames)
    found = only(tmp_path / f"x.{suffix}")
    assert isinstance(found, str)
    assert reason in found
    assert ("id=..." in found) == (suffix == "extxyz")


def test_a_file_without_ids_that_is_cut_off_is_one_refusal(tmp_path):
    write(tmp_path / "x.extxyz", frames_of())
    text = (tmp_path / "x.extxyz").read_text()
    (tmp_path / "x.extxyz").write_text(text[: text.rindex("Cl")])
    assert "lines are left in the frame" in only(tmp_path / "x.extxyz")


def test_frames_without_id_among_others_are_refused(tmp_path):
    frames = frames_of()
    frames[0].info["id"] = "NaCl"
    write(tmp_path / "x.extxyz", frames)
    (source,) = find_sources([tmp_path / "x.extxyz"])
    pairs, refused = split_up(import_source(source))
    assert not pairs
    assert [r.id for r in refused] == ["NaCl", "x.extxyz", "x.extxyz"]
    assert "frame 1 has no id=" in refused[1].reason


def test_sources_of_one_format_in_a_folder(tmp_path):
    write(tmp_path / "x.traj", frames_of())
    write(tmp_path / "y.extxyz", frames_of())
    write_run(tmp_path / "z" / "vasprun.xml", relaxation())
    assert [s.format for s in find_sources([tmp_path])] == ["ase-traj", "extxyz", "vasprun"]
    for kind in ("ase-traj", "extxyz", "vasprun"):
        assert [s.format for s in find_sources([tmp_path], kind)] == [kind]
    with pytest.raises(DatasetError, match="no ase-db"):
        find_sources([tmp_path], "ase-db")


# ---- continuity


@given(seeds)
def test_any_wrapping_of_a_path_is_undone(seed):
    """The path continues from the first frame for any periodic images of the others; the cell may grow."""
    rng = np.random.default_rng(seed)
    pbc = rng.random(3) < 0.8
    cell = (np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3))) * 5
    start = rng.uniform(-2, 2, (4, 3))
    positions = start + np.cumsum(rng.uniform(-0.4, 0.4, (6, 4, 3)), axis=0)
    steps, wrapped = [], []
    for k, fractional in enumerate(positions):
        box = cell * (1 + 0.05 * k)
        images = rng.integers(-3, 4, (4, 3)) * pbc * (k > 0)
        steps.append(Atoms("H4", cell=box, pbc=pbc, positions=fractional @ box))
        wrapped.append(Atoms("H4", cell=box, pbc=pbc, positions=(fractional + images) @ box))
    for mine, same, expected in zip(unwrap(wrapped), unwrap(steps), steps, strict=True):
        np.testing.assert_allclose(mine.positions, expected.positions, rtol=0, atol=1e-10)
        np.testing.assert_array_equal(same.positions, expected.positions)


def test_a_crystal_without_a_cell_is_refused():
    with pytest.raises(Exception, match="no cell"):
        trajectory_to_pair("x", [Atoms("H2", [[0, 0, 0], [0, 0, 1]])] * 2)


# ---- frames for training


@given(st.integers(2, 60), st.integers(0, 400))
def test_evenly_spaced_frames(n, more):
    length = n + more
    chosen = np.array(evenly_spaced(range(length), n))
    assert len(chosen) == n
    assert (chosen[0], chosen[-1]) == (0, length - 1)
    gaps = np.diff(chosen)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1 + (more > 0)
    assert abs(chosen - np.linspace(0, length - 1, n)).max() <= 0.5


def test_few_frames():
    assert evenly_spaced(range(4), 5) == (0, 1, 2, 3)
    assert evenly_spaced(range(4), 0) == ()
    assert evenly_spaced(range(4), 1) == (0, 3)
    for n in (0, 1):
        with pytest.raises(DatasetError, match="at least 2"):
            select_paths([], n)


def test_paths_of_a_dataset():
    pairs = list(REFERENCE.values())
    lengths = [len(pair.path) for pair in pairs]
    n = sorted(lengths)[2]
    longest = max(pairs, key=lambda pair: len(pair.path))
    mute = replace(longest, path=(*longest.path[:-1], replace(longest.path[-1], forces=None)))
    unstressed = replace(
        mute, path=tuple(replace(f, energy=0.0, forces=f.positions, stress=None) for f in mute.path)
    )
    found = select_paths([*pairs, mute, unstressed, replace(mute, path=())], n)
    expected = [pair for pair in pairs if len(pair.path) >= n]
    assert [p.id for p in found.pairs] == [p.id for p in [*expected, unstressed]]
    assert (found.frames, found.too_short, found.unlabelled) == (n, len(pairs) - len(expected) + 1, 1)
    for pair, whole in zip(found.pairs, expected, strict=False):
        assert pair.path == evenly_spaced(whole.path, n)
        assert (pair.path[0], pair.path[-1]) == (whole.path[0], whole.path[-1])
        np.testing.assert_array_equal(pair.relaxed_positions, whole.relaxed_positions)
    assert f"{len(found.pairs)} of 9 crystals" in str(found)
    # A frame that is not chosen may lack its labels.
    path = (longest.path[0], replace(longest.path[1], energy=None), *longest.path[2:])
    assert len(select_paths([replace(longest, path=path)], 2).pairs) == 1


def test_paths_of_extended_xyz_and_trajectories_are_alike(tmp_path):
    """The test paths are the same when imported from trajectories of ASE."""
    steps = {}
    for atoms in read(PATHS, ":"):
        steps.setdefault(atoms.info["id"], []).append(atoms)
    for name, frames in steps.items():
        write(tmp_path / f"{name}.traj", frames)
    pairs, refused = split_up(import_sources(find_sources([tmp_path]), assign=GroupSplit()))
    assert not refused
    assert {p.id for p in pairs} == REFERENCE.keys()
    for pair in pairs:
        assert_frames(pair, steps[pair.id])
