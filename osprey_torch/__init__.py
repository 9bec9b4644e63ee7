"""PyTorch definition of Osprey, its checkpoints and plain generation: for training and export, never on the robot."""
