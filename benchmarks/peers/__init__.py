"""What other libraries cost for the same three jobs: extraction, added vectors, directional ablation."""
