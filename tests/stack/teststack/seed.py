def fill(run): pass
