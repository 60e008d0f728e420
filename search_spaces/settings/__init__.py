"""The blocks of a sweep file as pydantic classes; each field has bounds, a default and a docstring."""
