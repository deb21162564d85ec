"""Studies of what the paper says of its parts."""
