"""What executes a model. Each module imports its libraries only when something is loaded."""
