"""Evaluation of relaxation paths: known answers, alignment, the command."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from repose.cli import app
from repose.data.dataset import DatasetInfo, write_dataset
from repose.data.frames import evenly_spaced, select_paths
from repose.errors import ConfigError, DatasetError
from repose.evaluation import path_plots
from repose.evaluation.metrics import aligned_rmsd, kabsch
from repose.evaluation.path_report import markdown, to_dict
from repose.evaluation.paths import evaluate_paths
from repose.models.checkpoint import save_model
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer
from repose.relaxer.batch_relaxation import BatchRelaxation
from support.crystals import random_rotation
from support.reference_pairs import REFERENCE
from support.tiny import Known, random_relaxer

T = 5
PAIRS = [pair for pair in REFERENCE.values() if len(pair.path) >= T]
ERRORS = ("energy_end", "energy_all", "energy_per_atom_end", "energy_per_atom_all")
ERRORS += ("forces_end", "forces_all", "coordinates", "aligned")


class Told(Relaxer):
    """Tells the reference paths, each frame changed; knows crystals by their cells, which noise leaves."""

    name, gives_paths = "told", True

    def __init__(self, change=lambda frame, k: frame, pairs=PAIRS, frames=T):
        self.change, self.seen = change, []
        self.paths = {p.cell.tobytes(): evenly_spaced(p.path, frames) for p in pairs}

    def relax_batch(self, batch):
        self.seen.append(batch)
        paths = [
            tuple(self.change(frame, k) for k, frame in enumerate(self.paths[one.cells[0].numpy().tobytes()]))
            for one in batch
        ]
        ends = [path[-1] for path in paths]
        positions = torch.from_numpy(np.concatenate([end.positions for end in ends]))
        return BatchRelaxation(
            Geometry(positions, torch.from_numpy(np.stack([e.cell for e in ends]))), paths=paths
        )

    def predict(self, batch):
        return self.relax_batch(batch).geometry


def row(result, relaxer, block=0):
    return next(row for row in result.blocks()[block]["rows"] if row["relaxer"] == relaxer)


def run(change=lambda frame, k: frame, **options):
    return evaluate_paths([Told(change)], {"real": PAIRS}, train=PAIRS, **options)


def test_crystals_are_told_apart():
    assert len(PAIRS) >= 3
    assert len({pair.cell.tobytes() for pair in PAIRS}) == len(PAIRS)


def test_the_reference_has_no_errors():
    result = run()
    for key in ERRORS:
        assert row(result, "told")[key] == pytest.approx(0, abs=1e-9), key
        if key not in ("aligned", "coordinates"):
            assert row(result, "Dummy")[key] > 1e-3
    assert row(result, "told")["rising"] == result.blocks()[0]["reference"]["rising"]
    gains = result.blocks()[0]["gains"]["told"]
    assert gains["energy_end"] == pytest.approx(100)
    assert result.blocks()[0]["curves"]["told"]["forces"] == pytest.approx([0] * T, abs=1e-9)


def test_an_offset_of_energies_is_their_error_in_all_units():
    # 0.3 eV a cell everywhere, but 0.8 eV at the end.
    result = run(lambda frame, k: replace(frame, energy=frame.energy + (0.8 if k == T - 1 else 0.3)))
    atoms = np.array([len(pair.numbers) for pair in PAIRS])
    found, mean = row(result, "told"), (0.3 * (T - 1) + 0.8) / T
    assert found["energy_end"] == pytest.approx(0.8)
    assert found["energy_all"] == pytest.approx(mean)
    assert found["energy_per_atom_end"] == pytest.approx(np.mean(0.8 / atoms))
    assert found["energy_per_atom_all"] == pytest.approx(np.mean(mean / atoms))
    curve = result.blocks()[0]["curves"]["told"]["energies"]
    np.testing.assert_allclose(curve, [np.mean(0.3 / atoms)] * (T - 1) + [np.mean(0.8 / atoms)], atol=1e-12)


def test_forces_count_by_component_and_frame():
    along_x = np.array([0.1, 0.0, 0.0])
    result = run(lambda frame, k: replace(frame, forces=frame.forces + (k + 1) * along_x))
    found = row(result, "told")
    assert found["forces_end"] == pytest.approx(0.1 * T / 3)
    assert found["forces_all"] == pytest.approx(0.1 * (T + 1) / 2 / 3)
    largest = np.linalg.norm(PAIRS[0].path[-1].forces + T * along_x, axis=1).max()
    assert result.scores["told"].largest[0, -1] == pytest.approx(largest)


def test_histograms_have_the_coordinate_errors_of_every_frame_but_the_input():
    shifts = [0.0, 0.03, 0.05, 0.1, 0.24]  # along x, A; errors are means of x, y and z

    def shifted(frame, k):
        return replace(frame, positions=frame.positions + np.array([shifts[k], 0.0, 0.0]))

    axes = path_plots.errors(run(shifted)).axes
    (panel,) = [axis for axis in axes if axis.get_ylabel() == "crystals"]
    assert (panel.get_title(), panel.get_xlabel()) == ("told", "error in coordinates, Å")
    lines = {line.get_label(): line.get_xy().T for line in panel.patches}
    assert set(lines) == {f"frame {k}" for k in range(1, T)}
    for k in range(1, T):
        edges, heights = lines[f"frame {k}"]
        low, high = edges[heights == len(PAIRS)][[0, -1]]
        assert low - 1e-9 <= shifts[k] / 3 <= high + 1e-9


def test_a_turned_end_lies_at_zero_after_alignment_alone():
    turn = random_rotation(3).numpy()

    def turned(frame, k):
        if k < T - 1:
            return frame
        return replace(frame, positions=frame.positions @ turn + 0.7, cell=frame.cell @ turn)

    found = row(run(turned), "told")
    assert found["aligned"] == pytest.approx(0, abs=1e-9)
    assert found["coordinates"] > 0.1


def test_images_of_atoms_do_not_matter_in_the_reference():
    moved = [
        replace(
            pair,
            path=tuple(replace(frame, positions=frame.positions + frame.cell[0]) for frame in pair.path),
        )
        for pair in PAIRS
    ]
    result = evaluate_paths([Told()], {"moved": moved})
    assert row(result, "told")["coordinates"] == pytest.approx(0, abs=1e-9)


def test_rising_energies_are_counted_per_atom():
    sizes = sorted({len(pair.numbers) for pair in PAIRS})

    def change(frame, k):
        """Energies that fall but for one rise, in the smallest crystals by more than what counts."""
        n = len(frame.positions)
        rise = 2e-3 if n == sizes[0] else 0.5e-3
        return replace(frame, energy=n * (0.0, -0.01, -0.01 + rise, -0.02, -0.03)[k])

    result = run(change)
    small = np.array([len(pair.numbers) == sizes[0] for pair in PAIRS])
    assert 0 < small.mean() < 1
    assert row(result, "told")["rising"] == pytest.approx(100 * small.mean())
    rise = result.values(result.scores["told"])["rise"]
    np.testing.assert_allclose(rise, np.where(small, 2e-3, 0.5e-3), rtol=0, atol=1e-9)


def test_reference_paths_that_rise_are_counted():
    def uphill(pair):
        frames = [replace(frame, energy=float(k)) for k, frame in enumerate(pair.path)]
        return replace(pair, path=tuple(frames))

    pairs = [uphill(PAIRS[0]), *(replace(p, path=_downhill(p)) for p in PAIRS[1:])]
    result = evaluate_paths([Told()], {"real": pairs})
    assert result.blocks()[0]["reference"]["rising"] == pytest.approx(100 / len(PAIRS))


def _downhill(pair):
    return tuple(replace(frame, energy=-float(k)) for k, frame in enumerate(pair.path))


def test_dummy_has_the_energies_of_the_elements_and_the_input():
    train = [
        replace(pair, path=tuple(replace(f, energy=float(pair.numbers.sum())) for f in pair.path))
        for pair in PAIRS
    ]
    result = evaluate_paths([Told(pairs=train)], {"made": train}, train=train)
    found = row(result, "Dummy")
    assert found["energy_end"] == pytest.approx(0, abs=1e-6)
    assert result.scores["Dummy"].coordinates[:, 0] == pytest.approx(0, abs=1e-9)
    forces = np.mean([np.abs(pair.path[-1].forces).mean() for pair in PAIRS])
    assert found["forces_end"] == pytest.approx(forces)
    alone = evaluate_paths([Told()], {"made": PAIRS})
    assert list(alone.scores) == ["Dummy", "told"]
    assert np.isnan(row(alone, "Dummy")["energy_end"])
    assert "has no energies and forces" in markdown(alone)


def test_paths_that_are_not_finite_count_as_dummys():
    lost = len(PAIRS[1].numbers)

    def broken(frame, k):
        bad = len(frame.positions) == lost and k == 3
        return replace(frame, cell=frame.cell * np.nan) if bad else frame

    result = run(broken)
    which = [len(pair.numbers) == lost for pair in PAIRS]
    assert result.not_finite == {"told": [p.id for p, bad in zip(PAIRS, which, strict=True) if bad]}
    told, dummy = result.scores["told"], result.scores["Dummy"]
    np.testing.assert_array_equal(told.coordinates[which], dummy.coordinates[which])
    np.testing.assert_array_equal(told.energies[which], dummy.energies[which])
    assert np.isnan(result.values(told)["rising"][which]).all()
    assert "paths were not finite" in markdown(result)


def test_crystals_without_enough_frames_are_left_out_and_shown():
    short = replace(PAIRS[0], id="short", path=PAIRS[0].path[:2])
    dark = replace(PAIRS[0], id="dark", path=tuple(replace(f, energy=None) for f in PAIRS[0].path))
    done = []
    result = evaluate_paths([Told()], {"real": [*PAIRS, short, dark]}, progress=done.append)
    assert len(result.crystals) == len(PAIRS)
    assert sum(done) == len(PAIRS) + 2
    assert "1 too short, 1 without energies" in markdown(result)
    assert to_dict(result)["left_out"] == {"real": {"too_short": 1, "unlabelled": 1}}


def test_noise_is_that_of_the_seed_and_of_the_scale():
    def starts(**options):
        told = Told()
        result = evaluate_paths([told], {"real": PAIRS}, perturb=[1e-3, 1e-1], edges_per_batch=1, **options)
        return result, [batch.positions for batch in told.seen[1:]]  # the first warms up

    result, seen = starts()
    again, one = starts()[1], starts(seed=1)[1]
    for k, pair in enumerate(PAIRS):
        plain, weak, strong = seen[3 * k : 3 * k + 3]
        np.testing.assert_array_equal(plain.numpy(), pair.positions)
        torch.testing.assert_close(100 * (weak - plain), strong - plain)
        assert 0.03 < float((strong - plain).std()) < 0.3
    assert all(torch.equal(a, b) for a, b in zip(seen, again, strict=True))
    assert not torch.equal(seen[1], one[1])
    # The answer is the same, whatever the start; Dummy's is as wrong as its input.
    rows = {(row["relaxer"], row["scale"]): row for row in result.perturbed()}
    assert rows["told", 0.1]["coordinates"] == pytest.approx(0, abs=1e-9)
    assert rows["Dummy", 0.1]["coordinates"] != rows["Dummy", 0.0]["coordinates"]


def test_errors_say_what_to_do():
    with pytest.raises(ConfigError, match="'known' gives no paths"):
        evaluate_paths([Known()], {"real": PAIRS})
    with pytest.raises(ConfigError, match="name one with --model"):
        evaluate_paths([], {"real": PAIRS})
    other = Told(frames=3)
    other.name = "other"
    with pytest.raises(ConfigError, match="told of 5, other of 3"):
        evaluate_paths([Told(), other], {"real": PAIRS})
    with pytest.raises(DatasetError, match="0 of 1 crystals have paths of 5 frames"):
        evaluate_paths([Told()], {"real": [replace(PAIRS[0], path=())]})
    with pytest.raises(DatasetError, match="the split is empty"):
        evaluate_paths([Told()], {"real": []})


points = st.integers(0, 10**6).map(lambda seed: np.random.default_rng(seed).normal(size=(6, 3)))


def centred(positions):
    return positions - positions.mean(axis=0)


@given(points, st.integers(0, 10**6))
def test_alignment_finds_the_rotation(positions, seed):
    turn = random_rotation(seed).numpy()
    np.testing.assert_allclose(kabsch(centred(positions), centred(positions) @ turn), turn, rtol=0, atol=1e-8)
    assert aligned_rmsd(positions, positions @ turn + [1.0, -2.0, 3.0]) < 1e-8


@given(points, st.integers(0, 10**6), st.integers(1, 6), st.integers(0, 3))
def test_alignment_never_reflects(positions, seed, n, rank):
    """Whatever the points: in space, in a plane, on a line, all at one place, or one alone."""
    flat = positions[:n] * (np.arange(3) < rank)
    mirrored = flat @ random_rotation(seed, reflect=True).numpy()
    turn = kabsch(centred(flat), centred(mirrored))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), rtol=0, atol=1e-8)
    assert np.linalg.det(turn) == pytest.approx(1)
    rmsd = aligned_rmsd(flat, mirrored)
    if rank < 3 or n < 4:  # the mirror image of what is flat is turned
        assert rmsd < 1e-7
    for other in range(10):  # and nothing else comes nearer
        left = centred(flat) @ random_rotation(seed + other).numpy() - centred(mirrored)
        assert rmsd <= np.sqrt(np.square(left).sum(axis=1).mean()) + 1e-9


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A dataset of paths, and one without, and a small random model."""
    root = tmp_path_factory.mktemp("paths")
    pairs = [replace(pair, split="test") for pair in PAIRS]
    pairs += [replace(pair, id=f"train-{pair.id}", split="train") for pair in PAIRS]
    pairs.append(replace(PAIRS[0], id="short", split="test", path=()))
    write_dataset(root / "data", DatasetInfo(name="real"), pairs)
    write_dataset(root / "bare", DatasetInfo(name="bare"), [replace(PAIRS[0], split="test", path=())])
    relaxer = random_relaxer("relaxnet", frames=3, triplets=8, n_basis=8, features=8)
    save_model(root / "model", relaxer.network.float(), relaxer.config, "# card\n")
    return root


def call(*arguments):
    return CliRunner().invoke(app, ["evaluate", "--device", "cpu", *map(str, arguments)])


def test_command_writes_everything(studied, tmp_path):
    out = tmp_path / "out"
    result = call(
        "--paths", "--model", studied / "model", "--data", studied / "data",
        "--perturb", "0.001,0.1", "--out", out, "--plots",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    names = ["path_errors.png", "path_examples.png", "paths.json", "paths.md", "paths.parquet"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in names[:2])
    text = (out / "paths.md").read_text()
    assert text.strip() in result.output
    assert f"{len(PAIRS)} of {len(PAIRS) + 1} crystals have paths of 3 frames" in text

    table = json.loads((out / "paths.json").read_text())
    rows = pq.read_table(out / "paths.parquet").to_pylist()
    assert len(rows) == 3 * 3 * len(PAIRS)
    for entry in table["blocks"][0]["rows"]:
        mine = [r for r in rows if (r["relaxer"], r["scale"]) == (entry["relaxer"], 0)]
        if entry["relaxer"] == "random":
            for key in ERRORS:
                assert entry[key] == pytest.approx(np.mean([r[key] for r in mine])), key
    model = [r for r in rows if r["relaxer"] == "random"]
    assert all(abs(r["energies"][-1] - r["reference_energies"][-1]) == r["energy_end"] for r in model)
    # The first frame is the input, so the error of its coordinates is what noise makes it.
    assert all(r["coordinate_errors"][0] < 1e-4 for r in model if r["scale"] == 0)
    assert all(0.03 < r["coordinate_errors"][0] < 0.2 for r in model if r["scale"] == 0.1)
    assert {row["scale"] for row in table["perturbed"]} == {0.0, 0.001, 0.1}
    assert select_paths(PAIRS, 3).pairs[0].path[-1].energy == pytest.approx(
        model[0]["reference_energies"][-1]
    )


def test_command_prints_json(studied):
    result = call("--paths", "--model", studied / "model", "--data", studied / "data", "--json", "--quiet")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["frames"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "data", "--paths"], "name one with --model"),
        (["--data", "bare", "--paths", "--model", "model"], "0 of 1 crystals have paths"),
        (["--data", "data", "--paths", "--model", "model", "--perturb", "much"], "got 'much'"),
        (["--data", "data", "--perturb", "0.1"], "add --paths"),
    ],
)
def test_wrong_usage(studied, options, message):
    words = [str(studied / word) if word in ("data", "bare", "model") else word for word in options]
    result = call(*words)
    assert result.exit_code != 0
    assert message in (str(result.exception) + result.output)
