"""What a GPU shows that a CPU cannot: speed, memory and numerics at 7B."""
