"""Which plans fit a budget, and what was measured of choosing among them."""
