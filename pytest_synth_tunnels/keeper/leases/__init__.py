"""The leases that a keeper holds, and their lives."""
