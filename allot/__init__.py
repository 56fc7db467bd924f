"""allot: one budget, every axis. Makes trained networks small and fast, and proves what was lost."""
