"""The shared floor: axes, families, checkpoints, token streams and the training loop. Knows no stage."""
