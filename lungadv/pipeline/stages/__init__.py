"""The stages: one module each, whose `build(run)` reads settings and files, calls the rooms and writes the stage's folder."""
