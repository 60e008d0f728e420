"""Checks across blocks of a sweep file: combinations that each block allows by itself and that make no sense
together."""
