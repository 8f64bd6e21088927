"""The keeper: the one process of a run that holds its tunnels, and how pytest speaks to it."""
