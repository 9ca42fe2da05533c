"""Two steerkit plugins: an adapter for GPT-NeoX, and the intervention ``cap``."""
