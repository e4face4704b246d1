"""The program's own telemetry: logs, metrics, health. The forwarded data does not pass through it."""
