"""Attacks on any tensor: projected gradient descent, its norms and step rules, noise of the same size, a search without gradients."""
