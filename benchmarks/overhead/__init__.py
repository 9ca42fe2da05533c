"""What an intervention costs while decoding."""
