"""What comes in: Segment's failure logs."""
