"""CASA's selection syntax: what an expression such as ``"3C*,2~4"`` selects from a MeasurementSet.

In: the text of `field`, `spw`, `scan`, `observation`, `intent`, `antenna`, `uvrange` or `timerange`, and what the subtables
say. Out: numbers of fields, channels of windows, pairs of antennas, ranges of times or distances. A wrong expression raises
`GpucubeError` with the parameter, the text and the part of it that is wrong.

The syntax is that of casacore's MSSelection (its grammars are in casacore's ``ms/MSSel``).

* `lists`: numbers and names, by which fields, scans, observations and intents are selected.
* `windows`: spectral windows and their channels.
* `baselines`: antennas, stations, baseline lengths and uv distances.
* `times`: dates and times.
"""
