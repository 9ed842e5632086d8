"""Data quality: references versioned apart from code, pure checks, versioned verdicts."""
