"""What tests share: the program as users start it, a real collector, and events to feed them with."""
