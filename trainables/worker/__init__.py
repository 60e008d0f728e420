"""The worker process of one rank in a lane: takes jobs, runs them, reports events, outcomes and failures."""
