"""The service's main job end to end, as a tenant does it over HTTP: subjects in, a page out."""
