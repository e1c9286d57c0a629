"""What a step would take on devices, by arithmetic: bytes, operations, launches and messages. Pure numbers."""
