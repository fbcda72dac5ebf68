"""Given pictures changed by a network: FlowEdit, SDEdit, inpainting."""
