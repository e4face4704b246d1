"""A simulated Segment: its failure-log API and downloads, as specification chapter 1 describes them."""
