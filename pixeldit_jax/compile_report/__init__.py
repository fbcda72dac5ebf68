"""What the TPU compiler says of a program: memory, FLOPs, collectives."""
