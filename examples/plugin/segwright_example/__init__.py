"""A network, a loss and a data format for segwright."""
