"""Tests of growtool, one folder for each of its rooms."""

import gc

gc.set_threshold(100_000)  # new objects between two searches for cycles; most of what is imported stays
