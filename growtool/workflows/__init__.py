"""Workflows of several growths and trainings: comparisons, schedules, protocols; and advice on what to grow."""
