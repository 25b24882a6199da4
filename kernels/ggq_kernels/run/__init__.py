"""Running rows on a team of threads."""
