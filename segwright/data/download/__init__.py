"""Published datasets: the catalog, fetching, unpacking."""
