"""What people read on a terminal: tables, closing lines and live progress."""
