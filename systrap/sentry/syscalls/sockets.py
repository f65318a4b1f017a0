"""Sockets: the families live in ``net/``, loaded with the first socket."""
