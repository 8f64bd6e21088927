"""The SynthTunnel wire: callers' HTTP into frames, and frames into the local app."""
