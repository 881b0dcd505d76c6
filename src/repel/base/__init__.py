"""The ground that every other room stands on: counted randomness and collective operations."""
