"""Problems given by a differential equation: where points are drawn, and losses of it for ``fit``."""
