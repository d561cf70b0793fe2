"""Training: data, objectives, optimisers and schedules, the loop, evaluation, recipes."""
