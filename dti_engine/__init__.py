"""Directional Textual Inversion as a library: one token per subject, generated into any prompt.

Importing this package loads nothing; import the modules you need.
"""

__version__ = "0.1.0"
