"""Directional Textual Inversion as a library: learn a subject as one token, paint it into any prompt.

Importing this package loads nothing; import the modules you need.
"""

__version__ = "0.1.0"
