"""How a lease's traffic reaches its targets, for each kind of lease."""
