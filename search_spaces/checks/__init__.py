"""Checks across the blocks of a sweep file, which the settings classes cannot do one by one."""
