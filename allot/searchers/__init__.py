"""Published search strategies, each a function that measures plans through `Trials`."""
