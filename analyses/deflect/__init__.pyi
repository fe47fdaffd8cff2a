from .command import deflect as deflect
