"""Everything that is compiled, each beside its plain twin, with one switch."""
