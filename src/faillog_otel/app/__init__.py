"""Composes the parts of a run, runs them in the order of effects, and returns how the run ended."""
