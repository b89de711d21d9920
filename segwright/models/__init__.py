"""The networks, from FCN-32s to what people use now."""
