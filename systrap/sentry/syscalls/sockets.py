"""Sockets. (The families live in ``net/``; loaded with the first socket.)"""
