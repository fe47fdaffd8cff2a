"""Commands on model organisms."""
