"""The commands of `lethe`: one module per task, with heavy imports inside the functions that need them."""
