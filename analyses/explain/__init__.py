"""Why a domain lost its refusals: which change of the model carries the loss, and where."""
