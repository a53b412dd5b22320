"""Equations whose solution nobody knows: points of a domain, and losses for :func:`hrta_ext.fit`."""
