"""What is remembered: of a file while it is read, and of records that did not get through."""
