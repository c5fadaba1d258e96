"""Bundles: folders, zips and tars of one subject's images, from untrusted senders.

This file imports nothing, so that the decoder process starts fast.
"""
