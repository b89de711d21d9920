"""Types, errors, atomic files, progress: what every other package may import."""
