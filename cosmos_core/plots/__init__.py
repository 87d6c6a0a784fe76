"""Pictures of a training run, as the bytes of PNG files.

`samples` and `series` take a batch and a log apart, `views` and `curves` draw them, on a `page`.
Matplotlib is imported when something is drawn, and nothing of its pyplot.
"""
