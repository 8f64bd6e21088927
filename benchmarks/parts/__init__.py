"""What is measured, one module a part: each has ``TITLE``, ``measure`` and ``tables``."""
