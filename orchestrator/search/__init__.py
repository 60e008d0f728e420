"""The search: which trials there are, what came of them, when to stop one, and which is next. Only this room
knows Optuna."""
