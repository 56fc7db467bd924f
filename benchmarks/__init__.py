"""One script per question; `allot bench NAME` runs them and writes their figures."""
