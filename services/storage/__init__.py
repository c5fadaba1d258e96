"""Object stores behind one interface: in memory, in a directory, or on S3."""
