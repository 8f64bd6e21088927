"""The page that shows a run's traffic as it flows, and its server."""
