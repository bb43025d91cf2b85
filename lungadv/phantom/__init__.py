"""A simulated screening CT: grid, anatomy, vessels, nodules, mimics, scanner, artefacts, and its comparison with a real one."""
