"""Quality of trained tokens: validation images, scores, outlier flags, and the report of a run."""
