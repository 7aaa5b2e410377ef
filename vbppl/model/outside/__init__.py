"""What stands around a model's function, and would be held for ever, do nothing or be lost in silence.

In order: `reading` notes what the function reads besides its arguments, and refuses what has changed; `numpyro` hears
or refuses effect handlers of NumPyro's; `dropped` refuses a model that stands as a statement of its own.
"""
