"""Tables, closing lines and live progress for people at a terminal."""
