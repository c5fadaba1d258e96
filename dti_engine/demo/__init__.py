"""The demo on the shipped miniature, from images of subjects to a page of results."""
