from .command import reproduce as reproduce
