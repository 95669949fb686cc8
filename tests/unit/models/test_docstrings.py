"""The example configuration in the docstring of every family is valid."""

import importlib
import json
import re

import pytest

from repose.config import TrainSettings
from repose.models.registry import families, family


@pytest.mark.parametrize("name", families())
def test_example_configurations_are_valid(name):
    cls = family(name)
    text = importlib.import_module(cls.__module__).__doc__
    (example,) = re.findall(r"Example configuration::\n\n    (.*)\n", text)
    cls.settings_type.parse(TrainSettings.parse(json.loads(example)).model)
