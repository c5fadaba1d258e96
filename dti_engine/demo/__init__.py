"""The main job on the shipped miniature, from images to a page that shows what came of it."""
