"""Reports about runs: one HTML page with pictures.

`write_report` reads what a run has left on disk (`state`), lists what an astronomer should look at (`findings`), draws the
cube and its convergence (`plots`), and fills one template (`page`, ``page.html.j2``).
"""

from gpucube.report.page import write_report

__all__ = ["write_report"]
