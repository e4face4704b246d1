"""What the program says of itself: logs, metrics, health. Nothing in here is about the forwarded data."""
