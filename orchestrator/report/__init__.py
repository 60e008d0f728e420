"""The report of a sweep: an HTML page, pictures, and the tables in them."""
