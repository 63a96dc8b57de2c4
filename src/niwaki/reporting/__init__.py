"""Pages and model cards, made from run directories alone."""
