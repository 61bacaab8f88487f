"""Random lives of families: parents, children, grandchildren, whatever dies or fails."""
