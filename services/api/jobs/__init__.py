"""What training jobs and generation jobs share."""
