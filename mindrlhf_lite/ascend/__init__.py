"""Compiling for Ascend on a host that has none: stand-ins for CANN's libraries, and what MindSpore's dry run tells."""
