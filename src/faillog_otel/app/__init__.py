"""The one place that orders effects."""
