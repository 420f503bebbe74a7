"""Progressive growth: stages of training and growing one after the other, from one file."""
