"""Training: one loop for all networks, augmentation, sampling, and the registry of strategies."""
