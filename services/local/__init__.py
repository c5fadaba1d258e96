"""The whole service on one machine: the processes that a cluster would run, supervised here."""
