"""The relay: takes callers' requests to the agent of their lease."""
