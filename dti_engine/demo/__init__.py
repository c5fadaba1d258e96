"""The main job on the shipped miniature, from pictures to a page that shows what came of it."""
