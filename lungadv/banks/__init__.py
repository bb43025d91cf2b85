"""Banks of hard patches that networks are fine-tuned on: synthetic nodules, perturbed nodules, and noise that looks like nodules."""
