"""How fast, and for how much memory: `make bench` compares, measures, and draws the picture."""
