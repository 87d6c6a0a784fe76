"""From typed names to stored results: plans, jobs, executors."""
