"""Sections of the HTML report, each with its explanation."""
