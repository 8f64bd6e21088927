"""The frames between relay and agent, and the links that carry them.

docs/reference/protocol.md describes them.
"""
