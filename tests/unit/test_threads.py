"""Number of threads: affinity, control groups, Slurm, and whether more than one helps."""

import os

import pytest
import torch

import repose
from repose import threads
from repose.errors import ConfigError


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with eight processors and no limits; returns the folder of control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "CGROUP", tmp_path)
    monkeypatch.setattr(threads, "GROUPS", tmp_path / "groups")
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_affinity(machine):
    assert threads.available_cpus() == 8


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SLURM_CPUS_PER_TASK", "3", 3),
        ("OMP_NUM_THREADS", "2", 2),
        ("OMP_NUM_THREADS", "4,2", 4),
        ("OMP_NUM_THREADS", "many", 8),
        ("SLURM_CPUS_PER_TASK", "64", 8),
    ],
)
def test_environment(machine, monkeypatch, name, value, expected):
    monkeypatch.setenv(name, value)
    assert threads.available_cpus() == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("200000 100000", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000", 8)],
)
def test_quota_of_the_own_group_and_of_those_above(machine, quota, expected):
    (machine / "groups").write_text("1:cpu:/other\n0::/job/step\n")
    (machine / "job" / "step").mkdir(parents=True)
    (machine / "job" / "step" / "cpu.max").write_text("max 100000\n")
    (machine / "job" / "cpu.max").write_text(f"{quota}\n")
    assert threads.available_cpus() == expected


@pytest.mark.parametrize(("together", "alone", "expected"), [(1.0, 2.0, 4), (8.2, 0.27, 1)])
def test_more_threads_are_used_if_they_help(machine, monkeypatch, restored, together, alone, expected):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")
    times = {4: together, 1: alone}
    monkeypatch.setattr(threads, "_product_seconds", lambda: times[torch.get_num_threads()])
    assert threads.use_threads() == expected == torch.get_num_threads()


def test_a_given_number_is_used(machine, restored):
    assert threads.use_threads(3) == 3 == torch.get_num_threads()
    assert threads.use_threads(1000) == 8 == torch.get_num_threads()
    with pytest.raises(ConfigError, match="at least 1; got 0"):
        threads.use_threads(0)


def test_loading_a_model_keeps_to_the_processors_that_are_granted(machine, monkeypatch, restored):
    torch.set_num_threads(4)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # PyTorch has followed it, or the user has replaced it
    repose.load("default")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    repose.load("default")
    assert torch.get_num_threads() == 1


def test_a_product_takes_time():
    assert threads._product_seconds() > 0
