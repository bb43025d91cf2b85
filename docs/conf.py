"""How Sphinx makes the site: `make docs`. The source folder is the repository itself, so that links hold there and on the site."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import latex2mathml.converter  # noqa: E402
import reference_pages  # noqa: E402
from docutils.nodes import SkipNode  # noqa: E402

import lungadv  # noqa: E402

project, author, release = "lungadv", "lungadv contributors", lungadv.__version__
copyright = "lungadv contributors, Apache-2.0"  # noqa: A001

root_doc = "docs/index"
include_patterns = [
    "docs/**.md", "nbs/[0-9]*.ipynb", "CHANGELOG.md", "CONTRIBUTING.md", "perf/README.md", "lungadv/weights/MODEL_CARD.md",
]  # fmt: skip
exclude_patterns = ["docs/_build", ".*", "runs", "tests", "build", "dist"]
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]

nb_execution_mode = "off"  # the outputs are those of the committed run
nb_ipywidgets_js = {}  # would be fetched from a CDN
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = "lungadv"
html_static_path = ["_static"]
html_extra_path = ["_extra"]  # the front door, which leads to docs/index.html
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"  # browsers draw MathML themselves: no script, nothing fetched


def _mathml(node, display):
    tex = re.sub(r"\\[bB]ig+[lr]?(?![a-z])", "", node.astext())  # brackets of MathML grow by themselves
    return latex2mathml.converter.convert(tex.replace(r"\arg\max", r"\operatorname*{argmax}"), display=display)


def _inline_math(self, node):
    self.body.append(_mathml(node, "inline"))
    raise SkipNode


def _block_math(self, node):
    self.body.append(self.starttag(node, "div", CLASS="math") + _mathml(node, "block") + "</div>")
    raise SkipNode


def setup(app):
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline_math, None), block_renderers=(_block_math, None))
    app.connect("source-read", reference_pages.fill_page)
    app.connect("autodoc-process-docstring", reference_pages.plain_docstring, priority=400)  # before napoleon
