"""From one scan to its findings: candidates of three networks, false-positive reduction, diameters, reports, stored weights."""
