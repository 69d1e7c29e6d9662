"""Training on a mixture, thin: loading, rendering, rewards and launching; the learning is that of TRL and verl."""
