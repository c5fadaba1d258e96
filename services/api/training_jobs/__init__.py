"""/v1/training-jobs: jobs that train tokens."""
