"""The system calls and binary layouts clearway needs: the lowest layer, it knows nothing above it."""
