"""Reports about runs: one HTML page with pictures.

`write_report` reads what a run has left on disk and lists what an astronomer should look at (`state`), draws the cube and
its convergence (`plots`), and fills one template (`page`, ``page.html.j2``).
"""
