"""Sphinx settings. Everything is built without network, and the pages load nothing from one."""

import inspect
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import reverie
from reverie.options import Part, signature, to_options

project = "Reverie"
author = "the Reverie authors"
version = release = reverie.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "mathml", "options_table", "results_table"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath", "fieldlist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"Reverie {version}"
html_math_renderer = "mathml"
pygments_style = "friendly"
pygments_dark_style = "monokai"

# The results page is written by ``reverie reproduce``; until then links to it lead nowhere (the contents find it by a pattern).
suppress_warnings = []
if not (Path(__file__).parent / "results.md").exists():
    suppress_warnings.append("myst.xref_missing")

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_class_signature = "mixed"


def show_options(app, what, name, obj, options, arguments, returns):
    """A part's signature as its options with their defaults; types and ranges are in the tables of the method pages."""
    if not (inspect.isclass(obj) and issubclass(obj, Part)):
        return None
    shown = []
    for option in signature(obj).values():
        default = option.default
        if isinstance(default, Part):
            default = to_options(default)["name"]
        shown.append(option.name if option.required else f"{option.name}={default!r}")
    return f"({', '.join(shown)})", None


def escape(app, what, name, obj, options, lines):
    """Docstrings are plain text with ``code`` in it; what reStructuredText would read as markup is escaped, examples are not."""
    example = False
    for number, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if not example:
            parts = line.split("``")
            parts[::2] = [re.sub(r"([*|_`\\])", r"\\\1", part) for part in parts[::2]]
            lines[number] = "``".join(parts)


def setup(app):
    app.connect("autodoc-process-signature", show_options)
    app.connect("autodoc-process-docstring", escape)
