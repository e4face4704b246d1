"""`python -m faillog_otel` is `faillog-otel`."""

from faillog_otel.cli import main

main()
