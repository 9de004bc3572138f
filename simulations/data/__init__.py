"""Real data: where it comes from, and how it is spread over devices."""
