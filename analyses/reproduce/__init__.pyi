from .command import reproduce as reproduce

__all__ = ["reproduce"]
