"""Sphinx configuration: MyST pages in four parts, no network, warnings are errors."""

from __future__ import annotations

import beamwright

project = "beamwright"
author = "the beamwright maintainers"
project_copyright = "2026, the beamwright maintainers"
release = version = beamwright.__version__

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = "beamwright"
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
