"""Homotopy relaxation training."""
