"""What a sweep may name: metrics, unlearning methods and published recipes, and the tables of them in the
documentation."""
