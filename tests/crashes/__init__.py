"""Kills, and what must not come of them."""
