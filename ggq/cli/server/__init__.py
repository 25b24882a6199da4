"""The commands about a server: serve, measure one."""
