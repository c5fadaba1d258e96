"""/v1/erasures: erase a subject, a job, or the jobs with a tag, and everything made of them."""
