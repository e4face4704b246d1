"""Reads files, pipes and downloaded objects as records, and indexes the exchanges of a file."""
