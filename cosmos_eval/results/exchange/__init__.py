"""Results in the file formats of other tools: one module per format, which reads and writes it.

A format is a `Format` of `formats.FORMATS`. To add one, write a module with its `read` and `write`,
add its names of data sets and metrics to protocols/facts/exchange.csv, and list it there.
"""
