"""Loads forget, retain and evaluation sets: closed world, TOFU, MUSE, WMDP and the user's own files."""
