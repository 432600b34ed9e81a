"""What users may ask for: the parameters of a job, how their values are written, and the messages about wrong values.

`parameters` lists the parameters, `types` has their types, and `quantities` reads values with units. `validation` makes the
messages. `tclean` knows the parameters and values of tclean that gpucube does not have.
"""
