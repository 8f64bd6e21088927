"""How pytest's processes talk to the keeper."""
