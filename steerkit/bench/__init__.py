"""What an intervention costs: the same calls with and without steering, side by side in one process."""
