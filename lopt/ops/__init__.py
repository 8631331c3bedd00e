"""Forward and backward pairs that tasks and optimizers are made of."""
