"""Reconstruct: a planned network's codes learned unit by unit, so that units compute what they did.

units.py which modules are learned together; streams.py what enters and leaves them; losses.py what
is made small; soft.py codes as variables; loose.py activation quantizers as variables;
learn.py the descent of one unit; reconstruct.py all units in execution order.
"""
