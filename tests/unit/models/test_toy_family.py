"""A new model family is one folder: it is listed, built, saved, loaded and checked without other edits."""

import pytest
from ase.build import bulk

from repose.errors import ModelError
from repose.models.checkpoint import ModelConfig, save_model
from repose.models.registry import families, family
from repose.relaxer.loading import load
from repose.testing import check_relaxer
from support.toy_family import toy_family  # noqa: F401


@pytest.mark.usefixtures("toy_family")
def test_a_folder_is_a_family(tmp_path, crystals):
    assert "toy" in families()
    cls = family("toy")
    network = cls(cls.settings_type.parse({"initial_strain": 0.02, "features": 4}))
    config = ModelConfig(
        family="toy", name="toy", settings=network.settings.model_dump(mode="json"), elements=[8, 20]
    )
    save_model(tmp_path / "model", network, config, "# toy\n")
    relaxer = load(tmp_path / "model", "cpu")
    relaxer.network.double()
    check_relaxer(relaxer, crystals)
    (result,) = relaxer.relax([bulk("CaO", "rocksalt", a=4.8)])
    assert result.status == "relaxed"
    assert result.volume_change == pytest.approx(1.02**3 - 1, abs=1e-6)
    with pytest.raises(ModelError, match="Did you mean 'toy'"):
        family("toi")
