"""The published way of MixtureGrowth (arXiv 2311.04251): two small members, grown onto a diagonal, trained on."""
