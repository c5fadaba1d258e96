"""/v1/generation-jobs: jobs that generate images in bulk."""
