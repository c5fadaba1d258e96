"""Bundles: folders, zips and tars of one subject's pictures, as anyone may send them.

Nothing is imported here, so that the decoder's process starts fast.
"""
