"""The process of one rank in a lane: jobs come in, events and results go out, and failures are sorted by
cause."""
