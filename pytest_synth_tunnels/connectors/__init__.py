"""How a managed lease's traffic comes to this machine: one class for each provider."""
