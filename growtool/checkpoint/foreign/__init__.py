"""Checkpoints that others saved in forms of their own, and what growtool makes of them."""
