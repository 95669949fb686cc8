"""Sphinx settings; `make docs` builds with warnings as errors."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import generated

project = "Repose"
author = "The Repose authors"
copyright = author
release = version = installed_version("repose-crystal")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Repose {release}"
html_static_path = ["_static"]

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3

# Docstrings put names into single backticks: a link where the name is documented here, code elsewhere.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# Attributes are described in the class docstring, in one place.
napoleon_use_ivar = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def setup(app):
    app.connect("builder-inited", lambda app: generated.write(Path(app.srcdir) / "reference"))
