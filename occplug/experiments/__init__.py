"""Many runs as one table: rows, seeds, kept figures, significance."""
