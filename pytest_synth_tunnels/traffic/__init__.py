"""What came through a tunnel, as data: requests, matchers, masking, the log. No I/O."""
