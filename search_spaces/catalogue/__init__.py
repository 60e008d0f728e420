"""Catalogues of metrics, unlearning methods and published recipes, and their tables in the documentation."""
