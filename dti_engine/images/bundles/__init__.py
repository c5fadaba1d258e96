"""Bundles: folders, zips and tars of one subject's images, as anyone may send them.

Nothing is imported here, so that the decoder's process starts fast.
"""
