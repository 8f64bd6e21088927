"""The embedded backend: control plane, ingress and relay on one loopback port."""
