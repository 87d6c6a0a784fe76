"""Figures for papers: one module per kind of figure.

Every `draw_*` function returns a Matplotlib figure, as wide as one or two columns of a paper.
`style.write_figure` writes it as PDF, SVG or PNG.
"""
