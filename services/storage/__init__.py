"""Objects under keys, in memory, in a directory or on S3, behind one interface."""
