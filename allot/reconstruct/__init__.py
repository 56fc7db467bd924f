"""Reconstruct: a planned network's codes learned unit by unit, so that units compute what they did.

setting.py how; units.py which modules are learned together; streams.py and work.py what enters and
leaves them; losses.py what is made small; soft.py codes as variables, loose.py quantizers of
tensors, opened.py both in stand-ins; learn.py the descent of one unit; reconstruct.py all units in
execution order.
"""
