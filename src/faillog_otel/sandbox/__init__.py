"""A simulated Segment (API, downloads, Tracking API) and an OTLP receiver, for the demo, CI and tests."""
