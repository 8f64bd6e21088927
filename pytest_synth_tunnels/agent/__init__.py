"""The agent: takes a relay's requests to the app under test."""
