"""What a plugin may import. With ``steerkit.errors`` and ``steerkit.types`` this is the whole contract."""
