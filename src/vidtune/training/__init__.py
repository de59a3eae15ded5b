"""Training: runs the stages of a recipe step by step, saves and logs them, and resumes them exactly."""
