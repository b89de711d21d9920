"""Dense CRF, regions, and chains of them."""
