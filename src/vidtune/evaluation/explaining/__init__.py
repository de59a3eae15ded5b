"""What each rule is worth by which two runs differ."""
