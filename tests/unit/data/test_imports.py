"""Imports of the data modules."""

import subprocess
import sys

MODULES = (
    "generate.chemistry",
    "generate.presets",
    "generate.prototypes",
    "generate.settings",
    "labelling.settings",
    "importers.formats",
    "candidates",
    "dataset",
    "splits",
    "summary",
)


def test_reading_datasets_and_tables_of_elements_imports_no_torch():
    imports = ", ".join(f"repose.data.{name}" for name in MODULES)
    code = f"import sys, {imports}; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
