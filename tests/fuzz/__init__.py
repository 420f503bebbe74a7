"""Damaged weights, configs, plans, images and options through the real commands; and commands that are killed.

`python -m tests.fuzz [--cases N] [--seed S]` runs the first, `python -m tests.fuzz --kills N` the second.
"""
