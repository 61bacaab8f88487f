"""The backends of this distribution, each behind an extra; none imports another's driver."""
