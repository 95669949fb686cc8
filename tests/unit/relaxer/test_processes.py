"""Relaxation in several processes: the results of one process, in order, whatever happens to a process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk

from repose.errors import ConfigError
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer
from repose.relaxer.constraints import Constraints
from repose.relaxer.processes import can_fork, relax_chunks
from support.tiny import random_relaxer

METALS = ("Cu", "Ag", "Au", "Ni", "Pd", "Pt", "Al")


class Dying(Relaxer):
    """Kills every process but the first that it is used in."""

    name = "dying"

    def __init__(self) -> None:
        self.process = os.getpid()

    def predict(self, batch):
        if os.getpid() != self.process:
            os.kill(os.getpid(), signal.SIGKILL)
        return Geometry(batch.positions, 1.01 * batch.cells)


class Refusing(Dying):
    """Has a wrong configuration."""

    def predict(self, batch):
        raise ConfigError("the configuration is wrong.")


def chunks(n: int = 3):
    """Chunks of two metals, of which one in the first chunk cannot be relaxed."""
    crystals = [bulk(METALS[k % len(METALS)]) for k in range(2 * n)]
    crystals[1] = crystals[1] * (2, 1, 1)
    crystals[1].positions[1] = crystals[1].positions[0]
    return [(f"chunk {k}", crystals[2 * k : 2 * k + 2]) for k in range(n)]


pytestmark = pytest.mark.skipif(not can_fork(Dying()), reason="no fork")


def test_results_are_those_of_one_process():
    relaxer = random_relaxer("reposenet", 0, "plain")
    given = chunks(5)
    found = list(relax_chunks(relaxer, given, Constraints(), None, 2, space_groups=True))
    assert [key for key, _ in found] == [key for key, _ in given]
    for (_, structures), (_, results) in zip(given, found, strict=True):
        for expected, got in zip(relaxer.relax(structures), results, strict=True):
            assert (got.status, got.reason) == (expected.status, expected.reason)
            assert np.allclose(got.structure.positions, expected.structure.positions, atol=1e-10)
            assert np.allclose(got.structure.cell, expected.structure.cell, atol=1e-10)
            assert (got.spacegroup_in, got.spacegroup_out) == (
                expected.spacegroup_in,
                expected.spacegroup_out,
            )
    refused = found[0][1][1]
    assert refused.status == "refused"
    assert refused.structure is given[0][1][1]


def test_a_process_that_is_killed_loses_no_crystal():
    with pytest.warns(UserWarning, match="ended unexpectedly") as caught:
        found = list(relax_chunks(Dying(), chunks(6), Constraints(), None, 2))
    assert len(caught) == 1
    assert [key for key, _ in found] == [key for key, _ in chunks(6)]
    assert [result.status for _, results in found for result in results].count("refused") == 1
    assert found[-1][1][0].volume_change == pytest.approx(1.01**3 - 1)


def test_every_process_has_one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ((_, (result,)),) = relax_chunks(Counting(), [("one", [bulk("Cu")])], Constraints(), None, 1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert result.volume_change == pytest.approx(1.01**3 - 1)  # one thread of PyTorch


class Counting(Relaxer):
    """Stretches the cell by a hundredth for each thread of PyTorch."""

    name = "counting"

    def predict(self, batch):
        return Geometry(batch.positions, (1 + 0.01 * torch.get_num_threads()) * batch.cells)


def test_errors_of_the_configuration_are_raised():
    with pytest.raises(ConfigError, match="configuration is wrong"):
        list(relax_chunks(Refusing(), chunks(), Constraints(), None, 2))


def test_chunks_are_read_a_few_ahead_only():
    read = []

    def reading():
        for key, structures in chunks(20):
            read.append(key)
            yield key, structures

    results = relax_chunks(random_relaxer("reposenet", 0, "plain"), reading(), Constraints(), None, 2)
    next(results)
    assert len(read) <= 5
    results.close()


def test_processes_end_when_the_first_one_is_killed(tmp_path):
    """The parent kills itself; its processes, which have written their numbers, end too."""
    script = f"""
import os, signal
from repose.models.prediction import Geometry
from repose.relaxer.base import Relaxer
from repose.relaxer.constraints import Constraints
from repose.relaxer.processes import relax_chunks
from ase.build import bulk
class Writing(Relaxer):
    name = "writing"
    def predict(self, batch):
        open({str(tmp_path)!r} + "/" + str(os.getpid()), "w").close()
        return Geometry(batch.positions, batch.cells)
for _ in relax_chunks(Writing(), [(k, [bulk("Cu")]) for k in range(9)], Constraints(), None, 2):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    processes = [int(path.name) for path in tmp_path.iterdir()]
    assert processes, done.stderr
    assert done.returncode == -signal.SIGKILL
    for _ in range(100):
        running = [process for process in processes if Path(f"/proc/{process}/exe").exists()]
        if not running:
            return
        time.sleep(0.1)
    pytest.fail(f"processes {running} are left")
