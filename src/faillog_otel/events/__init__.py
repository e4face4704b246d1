"""Bytes → events: typed structs for what Segment writes, bad records as values. No I/O, no clock."""
