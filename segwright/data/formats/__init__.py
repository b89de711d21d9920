"""One file a data format, each recognised by what lies on the disk."""
