"""What one does with a finished front: confirm it under new seeds, audit, reproduce, compare, benchmark and
export its models."""
