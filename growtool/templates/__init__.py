"""Templates: weights as linear combinations of shared matrices, found in trained layers and mixed into new ones."""
