"""Follow-ups on a finished front: confirm under new seeds, audit, reproduce, compare, benchmark, export."""
