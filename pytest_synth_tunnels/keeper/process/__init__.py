"""The keeper as a process: its start, its folder, its end."""
