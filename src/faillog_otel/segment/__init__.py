"""Segment's Public API, the downloads from its presigned URLs, and the planner of listings."""
