"""Studies over several runs, one file each: which runs, and the table and figures they make."""
