"""Your own parts: losses, metrics, models, optimisers, callbacks. See README.md."""
