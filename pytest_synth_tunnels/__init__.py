"""Tunnels for test suites: a public URL that forwards to the app under test."""
