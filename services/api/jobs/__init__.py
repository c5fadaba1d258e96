"""Routes, schemas and events that training jobs and generation jobs share."""
