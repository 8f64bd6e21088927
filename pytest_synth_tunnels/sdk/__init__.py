"""The Synth tunnels SDK. Needs no pytest."""
