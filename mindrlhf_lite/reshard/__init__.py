"""Moving weights between layouts in memory: a pure planner, an executor, transports."""
