"""What goes out: events as OTLP log records and spans, and their way to a collector."""
