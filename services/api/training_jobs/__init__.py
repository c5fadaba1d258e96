"""training_jobs."""
