"""Lanes: warm groups of Ray Train workers, the job queue that feeds them, and the Ray session around them."""
