"""Losses: each reduces in fp32, honours the ignore value, and is a plain nn.Module."""
