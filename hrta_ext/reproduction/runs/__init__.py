"""What the claims are tested on: units of work, problems, networks, trainings."""
