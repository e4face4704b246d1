"""Forwards Twilio Segment failure logs to OpenTelemetry."""

__version__ = "0.1.0"
