"""Parts of a plan by subject: plain frozen values. ``steerkit.plan.types`` has the others."""
