"""Several growths and trainings in a row: comparisons, schedules, protocols; and what growth to begin with."""
