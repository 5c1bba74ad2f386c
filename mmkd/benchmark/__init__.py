"""What a training step with a teacher costs, beside what it would cost otherwise."""
