"""Many processes over one S3 server, with faults, in virtual time, by a seed alone."""
