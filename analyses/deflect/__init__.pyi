from .command import deflect as deflect

__all__ = ["deflect"]
