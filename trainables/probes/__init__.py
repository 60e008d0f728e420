"""Probes that find facts which were hidden rather than forgotten."""
