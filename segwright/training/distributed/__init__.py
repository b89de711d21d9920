"""Several processes: agreement, launching, sharding, watching over each other."""
