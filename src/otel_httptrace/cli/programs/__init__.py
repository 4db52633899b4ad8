"""Other people's programs: found, given an environment, run, and looked into."""
