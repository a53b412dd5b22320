"""Problems given by a differential equation: where points are drawn."""
