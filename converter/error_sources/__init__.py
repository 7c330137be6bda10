"""What rounding each weight and each activation costs at the outputs, and which of them to leave in float."""
