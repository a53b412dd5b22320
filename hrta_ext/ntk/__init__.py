"""Gram matrices of finite and infinite width, and what one does with them."""
