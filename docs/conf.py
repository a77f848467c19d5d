"""Sphinx configuration: warnings are errors, examples run, the API comes from the docstrings."""

import warnings
from importlib.metadata import version as installed_version

import matplotlib

matplotlib.use("Agg")

project = "telescoping_sklearn"
author = "the telescoping_sklearn developers"
release = installed_version("telescoping_sklearn")
version = release

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "myst_parser",  # the page that the performance suite writes
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "auto_examples/*.ipynb", "auto_examples/*.py", "README*", "_fitted_*.rst"]
nitpicky = False

autosummary_generate = True
autodoc_typehints = "none"  # the docstrings say more
numpydoc_show_class_members = False  # each member has a page section of its own
numpydoc_xref_param_type = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_memory": False,
    "download_all_examples": False,
    "reset_modules": ("matplotlib",),
}
# A figure canvas that cannot show is what a build has; anything else that an example warns of is a mistake in it.
warnings.filterwarnings("ignore", message=".*FigureCanvasAgg is non-interactive.*", category=UserWarning)

html_static_path = ["_static"]
html_theme = "pydata_sphinx_theme"
html_title = "telescoping_sklearn"
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "navbar_end": ["theme-switcher"],
}
