"""Dense CRF, operations on regions, and pipelines of them."""
