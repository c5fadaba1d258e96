"""generation_jobs."""
