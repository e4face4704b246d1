"""Moves records: fetches objects, forwards what they hold, and starts workers for large files."""
